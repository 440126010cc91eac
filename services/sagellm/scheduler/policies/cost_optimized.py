"""cost_optimized: work that may wait goes to the cheapest capacity that still meets its deadline."""

from math import inf
from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import RequestPriority

from .base import BasePolicy, Key
from .deadlines import due_s, start_by_s
from .options import PolicyOptions
from .wording import aged, duration

PRESSING = "pressing"
DEFERRABLE = "deferrable"

MOMENT_S = (0.0, 0.2, 0.5)
"""How long a CRITICAL, HIGH or NORMAL request without a deadline may wait for a cheap place."""


class CostOptimized(BasePolicy):
    """Two groups. Pressing work goes first, as under priority but not later than by its deadline, and fills cheap
    places before dear ones. Work that may wait (LOW, BACKGROUND, or with a deadline) goes behind it, and only
    where it is cheapest, until half of the time in which it could start is over, or its priority's time to wait.
    """

    name: ClassVar[str] = "cost_optimized"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """Deferrable while it may still wait."""
        return DEFERRABLE if now_s < self._wait_until_s(request) else PRESSING

    def key(self, request: TrackedRequest) -> Key:
        """As under priority, with ageing; a deadline before that counts instead."""
        aged_s = request.arrival_s + request.priority * self._options.ageing_s
        return (min(aged_s, due_s(request)),)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """Pressing work first."""
        return (group == DEFERRABLE,)

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """The cheapest of them; for work that may wait, only if nothing is cheaper even when it is free."""
        found = cheapest(candidates)
        if found and now_s < self._wait_until_s(request) and _price(found[0]) > self.outlook.lowest_price(request):
            return Candidates()
        return found

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """Whether it may wait for a cheap place, and for how long."""
        wait_s = self._wait_until_s(request) - now_s
        if wait_s <= 0:
            return f"it is pressing; {aged(request, self._options.ageing_s)}"
        if self.outlook.prices_differ(request):
            return f"it may wait, and does so for the cheapest place, for {duration(wait_s)} more at most"
        return f"it may wait for {duration(wait_s)} more, and goes behind what is pressing until then"

    def _wait_until_s(self, request: TrackedRequest) -> float:
        """Until when a request may wait for cheap capacity; 0 for one that is not deferrable."""
        outlook = self.outlook
        latest_s = start_by_s(request, outlook.prefill_s(request), outlook.service_s(request))
        if latest_s < inf:
            # Half of the time that is left is kept for what predictions do not see.
            return request.arrival_s + (latest_s - request.arrival_s) / 2
        if request.priority < RequestPriority.LOW:
            return request.arrival_s + MOMENT_S[request.priority]
        return request.arrival_s + request.priority * self._options.ageing_s


def is_deferrable(request: TrackedRequest, deferrable_s: float) -> bool:
    """Whether a request may wait: by its deadline if it has one, else by its priority."""
    due = due_s(request)
    if due < inf:
        return due - request.arrival_s >= deferrable_s
    return request.priority >= RequestPriority.LOW


def cheapest(candidates: Candidates) -> Candidates:
    """Those of the lowest price."""
    return candidates.part(_price, _price(candidates.least(_by_price)))


def _price(instance: Instance) -> float:
    return instance.info.price_per_hour


def _by_price(instance: Instance) -> tuple[float, ...]:
    return (instance.info.price_per_hour,)
