"""Publishing from code that has no use for an error: what cannot be sent is as good as lost on its way."""

import logging

import nats.errors

from .client import Client

logger = logging.getLogger(__name__)


class Sender:
    """Sends messages in order: a frame reaches the server before the report that its request has ended.

    A message that cannot be sent is dropped and logged. Nobody waits for it: what a lost connection swallows is
    found out by heartbeats, redeliveries, and workers that hand back what they run.
    """

    def __init__(self, nc: Client) -> None:
        self._nc = nc

    @property
    def max_payload_bytes(self) -> int:
        """Largest message that the server takes."""
        return int(self._nc.max_payload)

    def send(self, subject: str, payload: bytes = b"") -> None:
        """Send one message."""
        try:
            self._nc.send(subject, payload)
        except nats.errors.Error as error:
            logger.warning("a message to %.80s was not sent: %s", subject, str(error) or type(error).__name__)

    async def flush(self, timeout_s: int = 2) -> None:
        """Wait until the server has all that was sent, or for `timeout_s`."""
        try:
            await self._nc.flush(timeout_s)
        except nats.errors.Error as error:
            logger.warning("the last messages may not have reached NATS: %s", str(error) or type(error).__name__)
