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

PRESSING = "pressing"
DEFERRABLE = "deferrable"


class CostOptimized(BasePolicy):
    """Pressing work as under priority, wherever there is room, cheap places first; deferrable work behind it, and
    only where it is cheapest, until it must start to be in time."""

    name: ClassVar[str] = "cost_optimized"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """Deferrable while it may still wait."""
        return DEFERRABLE if now_s < self._wait_until_s(request) else PRESSING

    def key(self, request: TrackedRequest) -> Key:
        """As under priority, with ageing."""
        return (request.arrival_s + request.priority * self._options.ageing_s,)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """Pressing work first."""
        return (group == DEFERRABLE,)

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """The cheapest of them."""
        return candidates.part(_price, _price(candidates.least(_by_price)))

    def _wait_until_s(self, request: TrackedRequest) -> float:
        """Until when a request may wait for cheap capacity; 0 for one that is not deferrable."""
        patient = request.priority >= RequestPriority.LOW
        due = due_s(request)
        if not patient and not (due < inf and due - request.arrival_s >= self._options.deferrable_s):
            return 0.0
        latest = start_by_s(request, self.outlook.prefill_s(request), self.outlook.service_s(request))
        return min(latest, request.arrival_s + request.priority * self._options.ageing_s)


def _price(instance: Instance) -> float:
    return instance.info.price_per_hour


def _by_price(instance: Instance) -> tuple[float, ...]:
    return (instance.info.price_per_hour,)
