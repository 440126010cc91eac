"""When every waiting request will probably start, answer and finish: a look ahead over the whole queue."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import EngineState


@dataclass(frozen=True, slots=True)
class Estimate:
    """A waiting request's prospects, if nothing else came. Times are Unix seconds; None: no instance serves it."""

    request: TrackedRequest
    position: int
    """1 goes next."""
    start_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None


def forecast(
    order: Iterable[TrackedRequest],
    running: Iterable[tuple[TrackedRequest, float]],
    instances: Sequence[Instance],
    estimates: Estimates,
    now_s: float,
) -> Iterator[Estimate]:
    """Estimates for `order`, the queue as it would be served, at O(log credits) each.

    Every request takes the credit that is free first; prompts of one instance are computed one after the other.
    `running` are the model's running requests, with the seconds since their dispatch; `instances` its instances.
    """
    ready = [instance for instance in instances if instance.state is EngineState.READY]
    if not ready:
        for position, request in enumerate(order, 1):
            yield Estimate(request, position)
        return
    index = {instance.id: place for place, instance in enumerate(ready)}
    slots: list[tuple[float, int, int]] = []
    held = [0] * len(ready)
    for request, elapsed_s in running:
        place = index.get(request.instance)
        if place is not None:
            slots.append((now_s + max(0.0, estimates.service_s(request) - elapsed_s), held[place], place))
            held[place] += 1
    for place, instance in enumerate(ready):
        slots.extend((now_s, turn, place) for turn in range(held[place], instance.info.max_concurrent_requests))
    heapify(slots)
    prefilled_s = [now_s] * len(ready)
    for position, request in enumerate(order, 1):
        start_s, turn, place = slots[0]
        prefill_s = estimates.prefill_s(request)
        first_token_s = max(start_s, prefilled_s[place]) + prefill_s
        finish_s = first_token_s + estimates.service_s(request) - prefill_s
        prefilled_s[place] = first_token_s
        heapreplace(slots, (finish_s, turn, place))
        yield Estimate(request, position, start_s, first_token_s, finish_s)
