"""Commands for operators: what waits, what runs, where, and under which policy, and how to change it."""
