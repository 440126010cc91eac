"""How the engine's CPU threads wait for each other."""

import os

SPIN_COUNT = "5000"
"""Turns of libgomp's waiting loop before a thread sleeps: some tens of microseconds, about the time between two
operations of a step. Its default is about a millisecond, which a machine with other work to do cannot spare: with
two threads and all cores busy, the engine was ten times slower than with this."""


def spin_briefly() -> None:
    """Set it, unless the user has. Must be called before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
