"""Publishing from code that cannot wait: messages leave in the order they were put in."""

import asyncio
import logging
from collections import deque

import nats.errors
from nats.aio.client import Client

logger = logging.getLogger(__name__)

BUFFER_FULL_PAUSE_S = 0.05


class Outbox:
    """A queue of core NATS publishes and the one task that sends them."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._pending: deque[tuple[str, bytes]] = deque()
        self._filled = asyncio.Event()

    def publish(self, subject: str, payload: bytes = b"") -> None:
        """Send soon; nothing says whether it arrived."""
        self._pending.append((subject, payload))
        self._filled.set()

    async def run(self) -> None:
        """Send for as long as the service lives."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send everything that is pending now."""
        while self._pending:
            subject, payload = self._pending[0]
            try:
                await self._nc.publish(subject, payload)
            except nats.errors.OutboundBufferLimitError:
                # Disconnected, and the client's buffer is full.
                await asyncio.sleep(BUFFER_FULL_PAUSE_S)
                continue
            except (nats.errors.BadSubjectError, nats.errors.MaxPayloadError) as error:
                logger.warning("a message to %.80s cannot be sent: %s", subject, error)
            self._pending.popleft()
