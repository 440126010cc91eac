"""edf: earliest deadline first; a baseline: in overload late requests block those that are still in time."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .deadlines import due_s


class Edf(BasePolicy):
    """By deadline; requests without one come last, in order of arrival."""

    name: ClassVar[str] = "edf"

    def key(self, request: TrackedRequest) -> Key:
        """The deadline."""
        return (due_s(request),)
