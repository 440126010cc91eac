"""fifo: in order of arrival."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import FixedOrder, Key


class Fifo(FixedOrder):
    """First in, first out, by the durable queue's own sequence: no client's clock can jump it."""

    name: ClassVar[str] = "fifo"

    def key(self, request: TrackedRequest) -> Key:
        """Arrival alone."""
        return ()
