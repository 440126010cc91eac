"""When every waiting request will probably start, answer and finish: a look ahead over the whole queue."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


@dataclass(frozen=True, slots=True)
class Estimate:
    """A waiting request's prospects, if nothing else came. Times are Unix seconds; None: no instance serves it."""

    request: TrackedRequest
    position: int
    """1 goes next."""
    start_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None


class Places:
    """The credits of a model's instances, and when each is free: a request takes the one that is free first.

    Prompts of one instance are computed one after the other. First tell all that `runs`, then `take`.
    """

    def __init__(self, instances: Iterable[Instance], estimates: Estimates, now_s: float) -> None:
        self._estimates = estimates
        self._now_s = now_s
        self._instances = [instance for instance in instances if instance.ready]
        self._index = {instance.id: place for place, instance in enumerate(self._instances)}
        self._held = [0] * len(self._instances)
        self._prefilled_s = [now_s] * len(self._instances)
        self._slots: list[tuple[float, int, int]] = []
        self._laid_out = False

    def __bool__(self) -> bool:
        return bool(self._instances)

    def runs(self, request: TrackedRequest, elapsed_s: float, times: int = 1) -> None:
        """A request holds a credit since `elapsed_s`, or `times` like it do."""
        place = self._index.get(request.instance)
        if place is not None:
            left_s = max(0.0, self._estimates.service_s(request) - elapsed_s)
            turns = range(self._held[place], self._held[place] + times)
            self._slots.extend((self._now_s + left_s, turn, place) for turn in turns)
            self._held[place] += times

    def next_free_s(self) -> float:
        """When the first of them is free, in Unix seconds; there must be one."""
        return self._heap()[0][0]

    def take(self, request: TrackedRequest) -> tuple[float, float, float]:
        """Start, first token and end of `request`, which is the next to start; there must be a place."""
        start_s, turn, place = self._heap()[0]
        prefill_s = self._estimates.prefill_s(request)
        first_token_s = max(start_s, self._prefilled_s[place]) + prefill_s
        finish_s = first_token_s + self._estimates.service_s(request) - prefill_s
        self._prefilled_s[place] = first_token_s
        heapreplace(self._slots, (finish_s, turn, place))
        return start_s, first_token_s, finish_s

    def _heap(self) -> list[tuple[float, int, int]]:
        if not self._laid_out:
            self._laid_out = True
            for place, instance in enumerate(self._instances):
                turns = range(self._held[place], max(1, instance.capacity))
                self._slots.extend((self._now_s, turn, place) for turn in turns)
            heapify(self._slots)
        return self._slots


def forecast(
    order: Iterable[TrackedRequest],
    running: Iterable[tuple[TrackedRequest, float]],
    instances: Sequence[Instance],
    estimates: Estimates,
    now_s: float,
) -> Iterator[Estimate]:
    """Estimates for `order`, the queue as it would be served, at O(log credits) each.

    `running` are the model's running requests, with the seconds since their dispatch; `instances` its instances.
    """
    places = Places(instances, estimates, now_s)
    for request, elapsed_s in running:
        places.runs(request, elapsed_s)
    for position, request in enumerate(order, 1):
        yield Estimate(request, position, *places.take(request)) if places else Estimate(request, position)
