"""How fast the durable queue empties, for clients that find it full: the leading scheduler knows."""

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import nats.errors

from sagellm.broker import Connection, Message
from sagellm.places import Places
from sagellm_schemas import Codec, InvalidRequest, subjects

UNKNOWN_S = 1.0
"""When to come again while nobody has told how fast the queue empties."""
FRESH_S = 1.0
HOLDS_GOOD_S = 10.0


class _Progress(msgspec.Struct, frozen=True):
    """The part of a `Snapshot` that matters here; the rest is not even decoded."""

    requests_per_second: float = 0.0
    active_requests: int = 0


class Drain:
    """Asks the leader for its metrics when the queue is full, and waits for no answer: the next refusal has it."""

    def __init__(self, connection: Connection) -> None:
        self._nc = connection.nc
        self._inbox = self._nc.new_inbox()
        self._codec: Codec[_Progress] = Codec(_Progress)
        self._progress = _Progress()
        self._asked_s = self._told_s = float("-inf")
        self._places = Places()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear the leader's answers within this context."""
        async with self._nc.handling(self._inbox, self._on_snapshot):
            yield

    def retry_after_s(self) -> float:
        """When the next request that is refused now should come again, in seconds."""
        now_s = time.monotonic()
        if now_s - self._asked_s > FRESH_S:
            self._asked_s = now_s
            with contextlib.suppress(nats.errors.Error):
                self._nc.send(subjects.METRICS, b"", reply=self._inbox)
        rate = self._progress.requests_per_second
        if not rate or now_s - self._told_s > HOLDS_GOOD_S:
            return UNKNOWN_S
        return self._places.retry_after_s(now_s, 1 / rate, self._progress.active_requests / rate)

    def _on_snapshot(self, message: Message) -> None:
        with contextlib.suppress(InvalidRequest):
            self._progress = self._codec.decode(message.data)
            self._told_s = time.monotonic()
