"""Garbage collection for a process that handles many short-lived objects without cycles."""

import contextlib
import gc
from collections.abc import Iterator

GENERATION_0 = 50_000
"""Every token's event is an object that the collector counts; at its default of 700 it would run all the time."""


@contextlib.contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Collect seldom within this context, and leave out what was there before it."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GENERATION_0, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
