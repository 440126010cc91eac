"""priority: CRITICAL first, BACKGROUND last, and whoever waits grows older."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .options import PolicyOptions
from .wording import aged


class Priority(BasePolicy):
    """By `arrival + priority * ageing_s`.

    The bound: a request of priority p waits behind those that were there before it, and behind those of priority
    q < p that come within `(p - q) * ageing_s` after it; behind nothing else, however many come.
    """

    name: ClassVar[str] = "priority"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._ageing_s = (options or PolicyOptions()).ageing_s

    def key(self, request: TrackedRequest) -> Key:
        """The time at which it would have come as a CRITICAL one."""
        return (request.arrival_s + request.priority * self._ageing_s,)

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """What its priority means."""
        return aged(request, self._ageing_s)
