"""priority: CRITICAL first, BACKGROUND last, each in order of arrival."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import FixedOrder, Key


class Priority(FixedOrder):
    """By priority, then arrival."""

    name: ClassVar[str] = "priority"

    def key(self, request: TrackedRequest) -> Key:
        """The priority's number."""
        return (request.priority,)
