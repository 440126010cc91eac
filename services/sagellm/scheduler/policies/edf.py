"""edf: earliest deadline first; a baseline: in overload late requests block those that are still in time."""

from math import inf
from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .deadlines import due_s
from .wording import duration


class Edf(BasePolicy):
    """By deadline; requests without one come last, in order of arrival."""

    name: ClassVar[str] = "edf"

    def key(self, request: TrackedRequest) -> Key:
        """The deadline."""
        return (due_s(request),)

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """When its deadline is."""
        left_s = due_s(request) - now_s
        if left_s == inf:
            return "it has no deadline, and goes behind all that have one"
        return f"its deadline is in {duration(left_s)}" if left_s > 0 else "its deadline has passed"
