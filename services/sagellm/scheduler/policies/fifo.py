"""fifo: in order of arrival."""

from typing import ClassVar

from .base import BasePolicy


class Fifo(BasePolicy):
    """First in, first out, by the durable queue's own sequence: no client's clock can jump it."""

    name: ClassVar[str] = "fifo"
