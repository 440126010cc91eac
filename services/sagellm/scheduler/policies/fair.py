"""fair: every user's share of the tokens, by billing tier (virtual token counters, Sheng et al., OSDI 2024)."""

from heapq import heappop, heappush, heapreplace
from typing import ClassVar, Self

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .options import PolicyOptions

INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
MAX_COUNTERS = 100_000


def service_tokens(input_tokens: int, output_tokens: int) -> float:
    """What so many tokens count as service, in tokens of input."""
    return INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens


class Fair(BasePolicy):
    """One group per user, the user with the smallest counter of weighted tokens first; a user's own by priority.

    The bound (theorem 1 there): while two users both wait, the services they get, divided by their weights, differ
    by at most twice the larger of one prompt's cost and the cost of all output that can be running at once.
    Requests without `user_id` are one user's.
    """

    name: ClassVar[str] = "fair"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._counters: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._active: list[tuple[float, str]] = []
        self._floor = 0.0
        self._restored: set[str] = set()

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """The user."""
        return request.request.user_id

    def key(self, request: TrackedRequest) -> Key:
        """A user's own requests as under priority, with ageing."""
        return (request.arrival_s + request.priority * self._options.ageing_s,)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """The user's counter."""
        return (self._counters.get(group, 0.0),)

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """A user that returns is lifted to the active minimum: what was not used is not saved up."""
        user = request.request.user_id
        waiting = self._waiting.get(user, 0)
        if not waiting:
            self._settle_floor()
            counter = self._counters.get(user, 0.0)
            if user in self._restored:
                self._restored.discard(user)
            else:
                counter = max(counter, self._floor)
            self._counters[user] = counter
            heappush(self._active, (counter, user))
        self._waiting[user] = waiting + 1

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """One less of this user's."""
        user = request.request.user_id
        self._waiting[user] -= 1
        if not self._waiting[user]:
            del self._waiting[user]
            if not self._waiting:
                self._floor = max(self._floor, self._counters[user])

    def changed(self, request: TrackedRequest, now_s: float) -> None:
        """Its user's account stays as it is."""

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """What its user has had, against whoever has had least."""
        user = request.request.user_id
        used = self._counters.get(user, 0.0)
        self._settle_floor()
        ahead_by = used - self._floor
        who = f"user {user[:50]!r}" if user else "whoever gives no user"
        if ahead_by <= 0:
            return f"{who} has had least of all that wait; its own requests go by priority"
        return f"{who} has had {ahead_by:.0f} weighted tokens more than the one who has had least"

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Advance the user's counter."""
        user = request.request.user_id
        weight = self._options.tier_weights.get(request.request.billing_tier, 1.0)
        cost = service_tokens(input_tokens, output_tokens)
        if user not in self._counters and len(self._counters) >= MAX_COUNTERS:
            self._forget_idle()
        self._counters[user] = self._counters.get(user, self._floor) + cost / weight

    def preview(self) -> Self:
        """A copy with the same counters."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._counters = self._counters.copy()
        twin._waiting = self._waiting.copy()
        twin._active = self._active.copy()
        twin._floor = self._floor
        twin._restored = self._restored.copy()
        return twin

    def state(self) -> dict[str, float]:
        """The counters by user; of those who do not wait, as they would be if they returned now."""
        return {
            user: counter if user in self._waiting else max(counter, self._floor)
            for user, counter in self._counters.items()
        }

    def restore(self, state: dict[str, float]) -> None:
        """Go on from these counters; where both know a user, from the higher one.

        Who is known has been lifted already: a queue that is entered anew, one by one, must not lift him again.
        """
        self._restored.update(state)
        for user, counter in state.items():
            self._counters[user] = max(counter, self._counters.get(user, 0.0))

    def _settle_floor(self) -> None:
        """Bring the floor up to the smallest counter among the users that wait."""
        while self._active:
            counter, user = self._active[0]
            if user not in self._waiting:
                heappop(self._active)
            elif counter < self._counters[user]:
                heapreplace(self._active, (self._counters[user], user))
            else:
                self._floor = max(self._floor, counter)
                return

    def _forget_idle(self) -> None:
        """Drop the users whose counters are below the floor: they would be lifted to it anyway."""
        self._settle_floor()
        self._counters = {
            user: counter
            for user, counter in self._counters.items()
            if counter > self._floor or user in self._waiting
        }
