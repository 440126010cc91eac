"""fifo: in order of arrival."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy


class Fifo(BasePolicy):
    """First in, first out, by the durable queue's own sequence: no client's clock can jump it."""

    name: ClassVar[str] = "fifo"

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """There is only one reason."""
        return "they came earlier"
