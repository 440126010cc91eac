"""Ordered publishing from synchronous code: what is sent first arrives first."""

import asyncio
import logging
from collections import deque

import nats.errors
from nats.aio.client import Client

logger = logging.getLogger(__name__)


class Publisher:
    """One queue in front of the connection.

    Engine callbacks are synchronous and the client's `publish` is not; and a frame must reach the server before
    the report that its request has ended, a report before the heartbeat that no longer shows the request.
    """

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._queue: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def max_payload_bytes(self) -> int:
        """Largest message that the server takes."""
        return int(self._nc.max_payload)

    def send(self, subject: str, payload: bytes) -> None:
        """Queue one message."""
        self._queue.append((subject, payload))
        if not self._wake.is_set():
            self._wake.set()
            self._empty.clear()

    async def run(self) -> None:
        """Publish what is queued, for ever.

        A message that cannot be published is dropped: without a connection the worker hands back what it runs
        as soon as it is there again, so nobody waits for it.
        """
        queue, publish = self._queue, self._nc.publish
        while True:
            await self._wake.wait()
            while queue:
                subject, payload = queue.popleft()
                try:
                    await publish(subject, payload)
                except (nats.errors.Error, ValueError) as error:
                    logger.warning("a message to %s was not published: %s", subject, error or type(error).__name__)
            self._wake.clear()
            self._empty.set()

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until the server has all that was sent, or for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
                await self._nc.flush()
        except (nats.errors.Error, TimeoutError) as error:
            logger.warning("the last messages may not have reached NATS: %s", error or type(error).__name__)
