"""fair: every user's share of the tokens, by billing tier (virtual token counters, Sheng et al., OSDI 2024)."""

from typing import ClassVar, Self

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .options import PolicyOptions

INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0


class Fair(BasePolicy):
    """One group per user, in order of the user's counter of weighted tokens."""

    name: ClassVar[str] = "fair"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._counters: dict[str, float] = {}
        self._waiting: dict[str, int] = {}

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """The user."""
        return request.request.user_id

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """The user's counter."""
        return (self._counters.get(group, 0.0),)

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """A user that returns is lifted to the active minimum: what was not used is not saved up."""
        user = request.request.user_id
        if not self._waiting.get(user) and self._waiting:
            least = min(self._counters.get(other, 0.0) for other in self._waiting)
            self._counters[user] = max(self._counters.get(user, 0.0), least)
        self._waiting[user] = self._waiting.get(user, 0) + 1

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """One less of this user's."""
        user = request.request.user_id
        self._waiting[user] -= 1
        if not self._waiting[user]:
            del self._waiting[user]

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Advance the user's counter."""
        user = request.request.user_id
        weight = self._options.tier_weights.get(request.request.billing_tier, 1.0)
        cost = INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens
        self._counters[user] = self._counters.get(user, 0.0) + cost / weight

    def preview(self) -> Self:
        """A copy with the same counters."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._counters = dict(self._counters)
        twin._waiting = dict(self._waiting)
        return twin

    def state(self) -> dict[str, float]:
        """The counters by user."""
        return dict(self._counters)

    def restore(self, state: dict[str, float]) -> None:
        """Go on from these counters."""
        self._counters.update(state)
