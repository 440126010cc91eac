"""slo_aware: whoever can still make a deadline goes first; who cannot is put behind, but not for ever."""

from math import inf
from typing import ClassVar, Self

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .deadlines import start_by_s
from .options import PolicyOptions

IN_TIME = "in time"
LATE = "late"

PATIENCE_S = (0.5, 2.0, 10.0, 60.0, 600.0)
"""How long a request without a deadline may wait, by its priority from CRITICAL to BACKGROUND."""


class SloAware(BasePolicy):
    """Two groups on one axis of absolute time; the one whose first request comes first on it is served.

    In time: by `latest start + work_weight * work`, work being the predicted time to the last token: among equally
    pressing requests the shorter goes first, which lets more of them make it. Late: by `arrival + late_bound_s`:
    a late request never waits behind anything that comes `late_bound_s` after it. A request is late when it
    comes up and its predicted first token, or end, would miss.
    """

    name: ClassVar[str] = "slo_aware"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._places: dict[int, float] = {}
        self._late: set[int] = set()
        self.relegated_total = 0
        """Requests that became late while they waited."""
        self.relegated_left = 0
        self.relegated_wait_sum_s = 0.0
        self.relegated_wait_max_s = 0.0
        """Of late requests, from arrival until they were dispatched or withdrawn."""

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """Late once it cannot be in time; a late one stays so."""
        if request.sequence in self._late:
            return LATE
        if now_s <= self._latest_s(request):
            return IN_TIME
        self._late.add(request.sequence)
        self.relegated_total += 1
        return LATE

    def key(self, request: TrackedRequest) -> Key:
        """Where it stands on the axis."""
        place_s = request.arrival_s + self._options.late_bound_s
        if request.sequence not in self._late:
            latest_s = self._latest_s(request)
            if latest_s == inf:
                place_s = request.arrival_s + PATIENCE_S[request.priority]
            else:
                place_s = min(place_s, latest_s + self._options.work_weight * self.outlook.service_s(request))
        self._places[request.sequence] = place_s
        return (place_s,)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """The first request's place."""
        return (self._places[first.sequence],)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Forget it, and note how long it has waited if it was late."""
        self._places.pop(request.sequence, None)
        if request.sequence in self._late:
            self._late.discard(request.sequence)
            waited_s = now_s - request.arrival_s
            self.relegated_left += 1
            self.relegated_wait_sum_s += waited_s
            self.relegated_wait_max_s = max(self.relegated_wait_max_s, waited_s)

    def preview(self) -> Self:
        """A copy that relegates on its own account."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._places = self._places.copy()
        twin._late = self._late.copy()
        return twin

    def _latest_s(self, request: TrackedRequest) -> float:
        asked = request.request
        if asked.ttft_slo_ms is None and asked.slo_deadline_ms is None:
            return inf
        return start_by_s(request, self.outlook.prefill_s(request), self.outlook.service_s(request))
