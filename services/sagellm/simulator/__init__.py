"""The simulator: recorded traffic through the scheduler's own objects, on modelled instances."""
