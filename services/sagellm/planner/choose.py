"""The choice among the candidates, and its reasons."""

from enum import StrEnum

import msgspec

from sagellm_schemas import InvalidRequest

from .candidates import Candidate, Formats, evaluate, obstacles, possible
from .gpus import Gpu
from .layout import Layout
from .model_shape import ModelShape
from .refusal import refuse
from .rule_of_thumb import distance, usual_splits
from .smallest import MOST_GPUS, gpus_for_rate
from .workload import Workload


class Objective(StrEnum):
    """What the best layout is, among those that carry the load within the latency goals.

    AUTO is the usual split for models of that size, then the highest capacity.
    """

    AUTO = "auto"
    LATENCY = "latency"
    THROUGHPUT = "throughput"


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, and why it was or was not chosen."""

    candidate: Candidate
    why: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen candidate; all that fit, best first; those that do not; and what cannot be split so, by reason.

    `gpus_needed` is the fewest GPUs of this kind that carry the rate; None if none of up to 1024 do, or no rate is
    asked for.
    """

    chosen: Candidate
    rated: list[Rated]
    unfit: list[Candidate]
    impossible: dict[str, list[Layout]]
    gpus_needed: int | None


def choose(
    shape: ModelShape,
    gpu: Gpu,
    gpus: int,
    workload: Workload,
    formats: Formats | None = None,
    objective: Objective = Objective.AUTO,
) -> Choice:
    """The best layout of `shape` on at most `gpus` GPUs.

    The order does not depend on `gpus`, and whatever is possible with some GPUs is with more: so more GPUs never
    make the choice worse.

    Raises:
        InvalidRequest: a number is out of range.
        OutOfMemory: no layout fits; the message says what would.
    """
    if not 1 <= gpus <= MOST_GPUS:
        raise InvalidRequest(f"gpus must be between 1 and {MOST_GPUS}; got {gpus}", param="gpus")
    gpu.verify()
    workload.verify()
    formats = formats or Formats()
    candidates = [evaluate(shape, layout, gpu, workload, formats) for layout in possible(shape, gpu, gpus)]
    fitting = [candidate for candidate in candidates if candidate.forecast is not None]
    unfit = [candidate for candidate in candidates if candidate.forecast is None]
    if not fitting:
        raise refuse(shape, gpu, gpus, workload, formats, unfit)
    fitting.sort(key=lambda candidate: _merit(shape, candidate, objective), reverse=True)
    best = fitting[0]
    return Choice(
        chosen=best,
        rated=[Rated(candidate=c, why=_why(shape, c, best, workload, objective)) for c in fitting],
        unfit=unfit,
        impossible=obstacles(shape, gpu, gpus),
        gpus_needed=gpus_for_rate(shape, gpu, workload, formats) if workload.rate_per_s else None,
    )


def _merit(shape: ModelShape, candidate: Candidate, objective: Objective) -> tuple[float, ...]:
    """Higher is better. One that is not sufficient counts by what it carries alone."""
    told = candidate.forecast
    assert told is not None
    request_ms = told.ttft_ms + told.tpot_ms
    first = 0.0
    if told.sufficient and objective is Objective.AUTO:
        first = -distance(shape, candidate.layout)
    if told.sufficient and objective is Objective.LATENCY:
        first = -request_ms
    return (float(told.sufficient), first, told.capacity_per_s, -request_ms, -candidate.layout.gpus)


def _why(
    shape: ModelShape, candidate: Candidate, best: Candidate, workload: Workload, objective: Objective
) -> str:
    told, top = candidate.forecast, best.forecast
    assert told is not None
    assert top is not None
    if not told.sufficient:
        return _shortfall(candidate, workload)
    usual = usual_splits(shape) and distance(shape, candidate.layout) == 0
    if candidate is best:
        if objective is Objective.LATENCY:
            return "chosen: the lowest latency"
        if objective is Objective.AUTO and usual:
            return "chosen: the usual split for this size"
        if objective is Objective.AUTO and usual_splits(shape):
            return "chosen: nearest to the usual split for this size"
        return "chosen: the highest capacity"
    share = told.capacity_per_s / top.capacity_per_s if top.capacity_per_s else 0.0
    latency = (told.ttft_ms + told.tpot_ms) / (top.ttft_ms + top.tpot_ms)
    comparison = f"{share:.0%} of the capacity, {latency:.0%} of the latency"
    if objective is Objective.AUTO and usual_splits(shape) and not usual:
        return f"not usual; {comparison}"
    return comparison


def _shortfall(candidate: Candidate, workload: Workload) -> str:
    told = candidate.forecast
    assert told is not None
    if told.capacity_per_s == 0:
        return "misses the latency goals even with one request at a time"
    if told.capacity_per_s < workload.rate_per_s:
        return f"carries {told.capacity_per_s:.2f} of {workload.rate_per_s:g} requests/s"
    return f"cannot run {workload.concurrency} requests at once within the latency goals"
