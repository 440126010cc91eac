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
    pressing requests the shorter goes first, which lets more of them make it. Late: by `arrival + late_bound_s`, so
    a late request never waits behind anything that arrives `late_bound_s` after it. A request is late when it comes
    up and its predicted first token, or end, would miss.
    """

    name: ClassVar[str] = "slo_aware"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._late: set[int] = set()
        self.relegated_total = 0
        self.relegated_waits_s: list[float] = []

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """Late once it cannot be in time; a late one stays so."""
        if request.sequence in self._late:
            return LATE
        outlook = self.outlook
        if now_s <= start_by_s(request, outlook.prefill_s(request), outlook.service_s(request)):
            return IN_TIME
        self._late.add(request.sequence)
        self.relegated_total += 1
        return LATE

    def key(self, request: TrackedRequest) -> Key:
        """Where it stands on the axis."""
        options = self._options
        if request.sequence in self._late:
            return (request.arrival_s + options.late_bound_s,)
        prefill_s, service_s = self.outlook.prefill_s(request), self.outlook.service_s(request)
        latest = start_by_s(request, prefill_s, service_s)
        if latest == inf:
            return (request.arrival_s + PATIENCE_S[request.priority],)
        return (min(latest + options.work_weight * service_s, request.arrival_s + options.late_bound_s),)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """The first request's place."""
        return self.key(first)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Forget it, and note how long it has waited if it was late."""
        self._late.discard(request.sequence)

    def preview(self) -> Self:
        """A copy that relegates on its own account."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._late = set(self._late)
        return twin
