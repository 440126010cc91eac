"""How far the loading of a model has come."""

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from sagellm_engine.weights import Weight


class LoadProgress(Protocol):
    """Told on the loading thread, after each tensor, how many weights are loaded, and of how many."""

    def __call__(self, loaded: int, total: int) -> None: ...


def reported(
    tensors: Iterator[tuple[str, Weight]], shapes: Mapping[str, tuple[int, ...]], progress: LoadProgress
) -> Iterator[tuple[str, Weight]]:
    """`tensors`, of which `shapes` has every one, with reports to `progress` as they are taken."""
    total = sum(math.prod(shape) for shape in shapes.values())
    loaded = 0
    for name, weight in tensors:
        yield name, weight
        loaded += math.prod(shapes[name])
        progress(loaded, total)
