"""The recommendations of the original control plane: how a dense model of some size is usually split."""

import math

from .layout import Layout
from .model_shape import ModelShape

_ROWS: tuple[tuple[float, tuple[tuple[int, int], ...]], ...] = (
    (9.7e9, ((1, 1), (2, 1))),
    (29.5e9, ((4, 1),)),
    (68e9, ((4, 1), (8, 1))),
    (175.5e9, ((4, 2),)),
    (math.inf, ((8, 4),)),
)
"""Models below so many parameters: the usual pairs of TP and PP. What is called 70B has 69 to 73 billion."""


def usual_splits(shape: ModelShape) -> tuple[tuple[int, int], ...]:
    """The usual pairs of TP and PP for a dense model of this size; none for a mixture of experts."""
    if shape.experts is not None:
        return ()
    return next(splits for below, splits in _ROWS if shape.total_params < below)


def distance(shape: ModelShape, layout: Layout) -> float:
    """How far `layout`'s replica is from the nearest usual split, in doublings of TP and of PP."""
    splits = usual_splits(shape)
    return min((abs(math.log2(layout.tp / tp)) + abs(math.log2(layout.pp / pp)) for tp, pp in splits), default=0.0)
