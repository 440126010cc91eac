"""Reading a stream's messages in batches without a consumer.

JetStream's direct get answers one question with many messages (nats-server 2.11 and later), leaves them where they
are, and is open to everybody: also for a work queue, which has room for one consumer only.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from .client import Message
from .connection import Connection

BATCH = 512
BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in a stream: `message` is as it was published, `stored_s` Unix seconds."""

    sequence: int
    stored_s: float
    message: Message


class DirectReader:
    """Reads one stream; one batch at a time."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    async def read(
        self, first_sequence: int, handler: Callable[[Stored], None], *, subject: str = ">", timeout_s: float = 2.0
    ) -> int:
        """Give `handler` the next messages on `subject` from `first_sequence` on, in order, at most `BATCH`.

        Returns how many there were; none is also the answer of a server that does not know how. After an error
        some may be missing: go on from the latest that came.

        Raises:
            TimeoutError: the server does not answer, or messages were lost on the way.
        """
        ended = asyncio.Event()
        count = 0

        def on_message(message: Message) -> None:
            nonlocal count
            sequence = message.headers.get("Nats-Sequence")
            if sequence is None:  # the end of the batch, or an error
                ended.set()
                return
            headers = message.headers
            stored_s = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
            published = Message(headers["Nats-Subject"], "", message.data, headers)
            count += 1
            handler(Stored(int(sequence), stored_s, published))

        nc = self._connection.nc
        inbox = nc.new_inbox()
        question = {
            "seq": first_sequence,
            "next_by_subj": subject,
            "batch": BATCH,
            "max_bytes": BATCH_BYTES,
        }
        async with nc.handling(inbox, on_message), asyncio.timeout(timeout_s):
            nc.send(f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(question).encode(), inbox)
            await ended.wait()
        return count
