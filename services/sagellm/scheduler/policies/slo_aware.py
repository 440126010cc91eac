"""slo_aware: whoever can still make a deadline goes first; who cannot is put behind, but not for ever."""

from collections import defaultdict
from itertools import count
from math import inf
from typing import ClassVar, Self

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .deadlines import due_s, start_by_s
from .late_shares import LateShares
from .options import PolicyOptions
from .wording import duration, priority

IN_TIME = "in time"
LATE = "late"

PATIENCE_S = (0.5, 2.0, 10.0, 60.0, 600.0)
"""How long a request without a deadline may wait, by its priority from CRITICAL to BACKGROUND."""

MOST_LATE = 0.5
"""Of the time, for late requests, however long they wait: others stay in time in an overload without end."""


class SloAware(BasePolicy):
    """Two groups, those in time and those that are late, and prompts in chunks that keep every TBT.

    In time: by `latest start + work_weight * work`, work being the instance time that it takes: of requests that
    press about equally the smaller goes first, so that more of them make it. Nobody stands back by more than the
    time it was given, and the less, the more often those of its size are late already: else a kind of request that
    is larger than others would bear all the misses.

    A request is late when it comes up and its predicted first token, or end, would miss. Late ones run by arrival,
    when nothing else waits; once the first has waited for `late_bound_s`, also beside the others, with
    `late_share` of the time. That share grows with the square of the wait, up to half. So late work never makes
    everything else late; and unless late requests are more than half of what can be done, none waits longer than
    about `late_bound_s * sqrt(0.5 / late_share)`: 134 seconds by default.
    """

    name: ClassVar[str] = "slo_aware"
    paced = True
    """Steps no longer than the decodes in them allow."""

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._late: dict[int, bool] = {}
        self._numbers: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._refusals = count(1)
        self._due_s: dict[str, float] = {}
        self._next_late_s = 0.0
        self._late_shares = LateShares()
        self.relegated_total = 0
        """Requests that became late while they waited."""
        self.relegated_left = 0
        self.relegated_wait_sum_s = 0.0
        self.relegated_wait_max_s = 0.0
        """Of late requests, from arrival until they were dispatched or withdrawn."""

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """It begins in time."""
        self._late[request.sequence] = False
        self._numbers[request.request.model][False] += 1

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """Late once it cannot be in time; a late one stays so while it waits."""
        late = self._late.get(request.sequence)
        if late:
            return LATE
        if now_s <= self._latest_s(request):
            return IN_TIME
        if late is not None:
            self._late[request.sequence] = True
            numbers = self._numbers[request.request.model]
            numbers[False] -= 1
            numbers[True] += 1
            self.relegated_total += 1
            self._late_shares.add(self.outlook.work_s(request), late=True)
        return LATE

    def key(self, request: TrackedRequest) -> Key:
        """Those in time by what is pressing and small, late ones by arrival."""
        if self._late.get(request.sequence):
            return (request.arrival_s,)
        latest_s = self._latest_s(request)
        given_s = due_s(request) - request.arrival_s
        if latest_s == inf:
            given_s = PATIENCE_S[request.priority]
            latest_s = request.arrival_s + given_s
        work_s = self.outlook.work_s(request)
        weight = self._options.work_weight * self._late_shares.leniency(work_s)
        return (latest_s + min(given_s, weight * work_s),)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """0 for the group whose turn it is. The other gets a number that was never given before, to be asked again
        whenever it comes up."""
        model = first.request.model
        in_time, late = self._numbers[model]
        if group == LATE:
            self._due_s[model] = first.arrival_s + self._options.late_bound_s
        late_turn = now_s >= max(self._due_s.get(model, inf), self._next_late_s)
        refused = bool(in_time) and not late_turn if group == LATE else bool(late) and late_turn
        return (next(self._refusals) if refused else 0,)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Forget it, and note how long it has waited if it was late."""
        late = self._late.pop(request.sequence)
        numbers = self._numbers[request.request.model]
        numbers[late] -= 1
        if not late:
            self._late_shares.add(self.outlook.work_s(request), late=False)
        else:
            waited_s = now_s - request.arrival_s
            if numbers[False]:
                lasts_s = self.outlook.work_s(request) / self.outlook.instances(request)
                self._next_late_s = max(self._next_late_s, now_s) + lasts_s / self._late_share(waited_s)
            self.relegated_left += 1
            self.relegated_wait_sum_s += waited_s
            self.relegated_wait_max_s = max(self.relegated_wait_max_s, waited_s)

    def changed(self, request: TrackedRequest, now_s: float) -> None:
        """It has another chance to be in time."""
        if self._late[request.sequence]:
            self._late[request.sequence] = False
            numbers = self._numbers[request.request.model]
            numbers[True] -= 1
            numbers[False] += 1

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """By when it must start, or that it cannot be in time."""
        latest_s = self._latest_s(request)
        if self._late.get(request.sequence) or now_s > latest_s:
            bound_s = self._options.late_bound_s
            return (
                "it is late: its deadline cannot be met any more, so it runs when nothing else waits, or with at "
                f"least {self._options.late_share:.0%} of the time once it has waited {duration(bound_s)}"
            )
        if latest_s == inf:
            patience_s = PATIENCE_S[request.priority]
            return (
                f"it has no deadline; as {priority(request)} it counts as due {duration(patience_s)} after it came"
            )
        return f"it will be in time if it starts within {duration(latest_s - now_s)}, and others press more"

    def preview(self) -> Self:
        """A copy that relegates on its own account."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._late = self._late.copy()
        twin._numbers.update({model: numbers.copy() for model, numbers in self._numbers.items()})
        twin._refusals = count(next(self._refusals))
        twin._due_s = self._due_s.copy()
        twin._next_late_s = self._next_late_s
        twin._late_shares = self._late_shares.copy()
        return twin

    def _late_share(self, waited_s: float) -> float:
        """What of the time late requests have a right to, if the first of them has waited for so long."""
        overdue = max(1.0, waited_s / self._options.late_bound_s)
        return min(max(MOST_LATE, self._options.late_share), self._options.late_share * overdue**2)

    def _latest_s(self, request: TrackedRequest) -> float:
        asked = request.request
        if asked.ttft_slo_ms is None and asked.slo_deadline_ms is None:
            return inf
        return start_by_s(request, self.outlook.prefill_s(request), self.outlook.service_s(request))
