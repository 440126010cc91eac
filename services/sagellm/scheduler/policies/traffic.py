"""What kind of traffic comes: shares of the latest arrivals, and the policy that suits them."""

from collections import Counter
from math import inf
from typing import TypeVar

from sagellm.scheduler.requests import TrackedRequest

from .cost_optimized import is_deferrable
from .deadlines import due_s
from .options import PolicyOptions

WINDOW = 500
"""Arrivals after which all counts are halved: what counts is the latest thousand at most."""

FEWEST = 20
STAYS = 0.5
NOTABLE = 0.05
DEFERRABLE = 0.2
GREEDY = 3.0
"""A user with this many times the mean of the others is greedy."""

LATE = 0.02
"""More requests than this share, dispatched after their deadlines, mean that capacity is short."""

LATE_WEIGHT = 0.005
NEARLY_FULL = 0.8
"""With more than this share of all credits in use there is nothing left to save: work put off would be missed."""

BUSY = 0.5
FEW = 2

T = TypeVar("T")


class Traffic:
    """Counts by deadline, priority, patience and user, halved now and then."""

    def __init__(self, options: PolicyOptions) -> None:
        self._options = options
        self._total = 0.0
        self._deadlines = 0.0
        self._deferrable = 0.0
        self._priorities: Counter[int] = Counter()
        self._users: Counter[str] = Counter()
        self.late_share = 0.0
        """Of the latest requests with deadlines, those that were still waiting when it passed."""

    def saw(self, request: TrackedRequest, now_s: float) -> None:
        """One more arrival."""
        asked = request.request
        self._total += 1
        self._deadlines += asked.ttft_slo_ms is not None or asked.slo_deadline_ms is not None
        self._deferrable += is_deferrable(request, self._options.deferrable_s)
        self._priorities[request.priority] += 1
        self._users[asked.user_id] += 1
        if self._total >= WINDOW:
            self._halve()

    def dispatched(self, request: TrackedRequest, now_s: float) -> None:
        """It waits no more."""
        due = due_s(request)
        if due < inf:
            self.late_share += LATE_WEIGHT * ((now_s > due) - self.late_share)

    def suits(self, active: str, prices_differ: bool, load: float) -> tuple[str, str]:
        """Name of the policy that suits this traffic, and why; half as much is enough for the `active` one."""
        if self._total < FEWEST:
            return active, "too little is known yet"
        total = self._total
        enough = {active: STAYS}.get
        deadlines, deferrable = self._deadlines / total, self._deferrable / total
        relaxed = self.late_share <= (LATE if active == "cost_optimized" else LATE / 4)
        relaxed = relaxed and load < NEARLY_FULL * (1.0 if active == "cost_optimized" else 0.75)
        if prices_differ and relaxed and deferrable >= DEFERRABLE * enough("cost_optimized", 1.0):
            return "cost_optimized", f"{deferrable:.0%} of the requests may wait, and instances differ in price"
        if deadlines >= NOTABLE * enough("slo_aware", 1.0):
            return "slo_aware", f"{deadlines:.0%} of the requests have deadlines"
        mixed = 1 - max(self._priorities.values(), default=0) / total
        if mixed >= NOTABLE * enough("priority", 1.0):
            return "priority", f"{mixed:.0%} of the requests differ in priority from the rest"
        if len(self._users) > FEW and load >= BUSY * enough("fair", 1.0):
            user, most = self._users.most_common(1)[0]
            others = (sum(self._users.values()) - most) / (len(self._users) - 1)
            if most >= GREEDY * enough("fair", 1.0) * others:
                return "fair", f"user {user[:50]!r} sends {most / max(1, others):.1f} times as much as the others"
        return "fifo", "requests do not differ"

    def _halve(self) -> None:
        self._total /= 2
        self._deadlines /= 2
        self._deferrable /= 2
        self._priorities = _halved(self._priorities)
        self._users = _halved(self._users)


def _halved(counts: Counter[T]) -> Counter[T]:
    return Counter({key: held >> 1 for key, held in counts.items() if held > 1})
