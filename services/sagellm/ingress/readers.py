"""The registry of readers: frames come in on one subject for the whole process and are told apart here."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from sagellm.broker import Connection, Message, Sender
from sagellm_schemas import (
    MSGPACK,
    Cancel,
    Codec,
    ErrorBody,
    Frame,
    Held,
    HeldQuery,
    HeldReply,
    InvalidRequest,
    encode,
    subjects,
)

from .inbox import Inbox
from .reader import Reader, lost

logger = logging.getLogger(__name__)

GAP_TIMEOUT_S = 5.0
"""How long a reader with a hole waits for another attempt."""


class Readers:
    """All open readers of this process, by request id."""

    def __init__(self, connection: Connection, owner: str) -> None:
        self.reply_to = subjects.replies(owner)
        self._owner = owner
        self._nc = connection.nc
        self._sender = Sender(connection.nc)
        self._frames: Codec[Frame] = Codec(Frame)
        self._queries: Codec[HeldQuery] = Codec(HeldQuery)
        self._open: dict[str, Reader] = {}
        self._gaps: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Receive frames and answer the scheduler's questions within this context."""
        frames = self._nc.handling(self.reply_to, self._on_frame)
        queries = self._nc.handling(subjects.held(self._owner), self._on_query)
        try:
            async with frames, queries:
                yield
        finally:
            for timer in self._gaps:
                timer.cancel()

    def open(self, request_id: str, choice: int, inbox: Inbox) -> Reader:
        """Begin to read the answer of `request_id` into `inbox`."""
        reader = self._open[request_id] = Reader(choice, inbox)
        return reader

    def close(self, request_id: str) -> bool:
        """Stop reading; tells whether the answer had not ended yet."""
        return self._open.pop(request_id, None) is not None

    def fail(self, request_id: str, error: ErrorBody) -> None:
        """End the answer of `request_id`, if it is still open, with an error of ours."""
        reader = self._open.pop(request_id, None)
        if reader is not None:
            reader.fail(error)

    def fail_all(self, error: ErrorBody) -> None:
        """End every open answer with `error`, and cancel the requests."""
        ids = list(self._open)
        for request_id in ids:
            self.fail(request_id, error)
        self.cancel(ids)

    def cancel(self, request_ids: list[str]) -> None:
        """Tell whoever holds these requests to stop."""
        if request_ids:
            self._sender.send(subjects.CANCEL, encode(Cancel(ids=request_ids)))

    def _on_frame(self, msg: Message) -> None:
        try:
            frame = self._frames.decode(msg.data)
        except InvalidRequest as error:
            logger.warning("a frame that cannot be read was dropped: %s", error)
            return
        readers = self._open
        for event in frame.events:
            reader = readers.get(event.id)
            if reader is None:
                continue
            fed = reader.feed(event)
            if fed == "ended":
                del readers[event.id]
            elif fed == "gap":
                self._on_gap(event.id, reader.attempt)

    def _on_gap(self, request_id: str, attempt: int) -> None:
        logger.warning("a frame of request %s was lost in attempt %d", request_id, attempt)

        def give_up() -> None:
            self._gaps.discard(timer)
            reader = self._open.get(request_id)
            if reader is not None and reader.gapped and reader.attempt == attempt:
                self.fail(request_id, lost())
                self.cancel([request_id])

        timer = asyncio.get_running_loop().call_later(GAP_TIMEOUT_S, give_up)
        self._gaps.add(timer)

    def _on_query(self, msg: Message) -> None:
        try:
            query = self._queries.decode(msg.data)
        except InvalidRequest as error:
            logger.warning("a question of the scheduler cannot be read: %s", error)
            return
        held: dict[str, Held] = {}
        for request_id, attempt in query.attempts.items():
            reader = self._open.get(request_id)
            if reader is not None:
                reader.expect(attempt)
                held[request_id] = Held(token_ids=reader.held.tolist())
        if msg.reply:
            self._sender.send(msg.reply, encode(HeldReply(held=held), MSGPACK))
