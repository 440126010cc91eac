"""How few GPUs would do."""

import math
from collections.abc import Iterator

from .candidates import Formats, evaluate, possible
from .gpus import Gpu
from .layout import Layout
from .model_shape import ModelShape
from .placement import gpus_for
from .workload import Workload

MOST_GPUS = 1024


def replicas(shape: ModelShape, gpu: Gpu, gpus: int) -> Iterator[Layout]:
    """The replicas of at most `gpus` GPUs, the smallest first."""
    yield from sorted(
        {Layout(tp=one.tp, pp=one.pp, ep=one.ep) for one in possible(shape, gpu, gpus)},
        key=lambda layout: (layout.gpus, layout.pp, layout.ep),
    )


def gpus_for_model(shape: ModelShape, gpu: Gpu, workload: Workload, formats: Formats) -> int | None:
    """The fewest GPUs on which it fits, up to `MOST_GPUS`."""
    for layout in replicas(shape, gpu, MOST_GPUS):
        if evaluate(shape, layout, gpu, workload, formats).forecast is not None:
            return layout.gpus
    return None


def gpus_for_rate(shape: ModelShape, gpu: Gpu, workload: Workload, formats: Formats, most: int = 64) -> int | None:
    """The fewest GPUs that carry the workload: replicas of at most `most` GPUs each, as many as it takes."""
    best: int | None = None
    for layout in replicas(shape, gpu, most):
        told = evaluate(shape, layout, gpu, workload, formats).forecast
        if told is None or told.capacity_per_s <= 0:
            continue
        copies = max(1, math.ceil(workload.rate_per_s / told.capacity_per_s))
        if not told.sufficient and workload.concurrency > 1:
            copies = max(copies, math.ceil(workload.concurrency / max(1, told.room)))
        total = gpus_for(copies, layout.gpus, gpu.per_node)
        if total <= MOST_GPUS and (best is None or total < best):
            best = total
    return best
