"""A standby's copy of the durable queue, so that a takeover need not wait for the queue to be read.

A work queue has room for one consumer, the leader's. So the copy is read from the stream without one, and what
ends is heard as the leader's acknowledgements, plain messages. Some may be missed; `complete` says whether the
copy is true, and if it is not, the leader waits until its consumer has told it everything.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict

import nats.errors
from nats.aio.subscription import Subscription

from sagellm.broker import Connection, DirectReader, Message, Stored
from sagellm.scheduler.reading import Delivery, Reader, Rejection
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import subjects

logger = logging.getLogger(__name__)

CONSUMER = "scheduler"
ENDING = (b"", b"+ACK", b"+TERM")
INTERVAL_S = 0.1
RETRY_PAUSE_S = 0.5
REMEMBERED = 100_000
COMPARISONS = 5
PAUSE_S = 0.05


class QueueCopy:
    """Every outstanding request by its sequence, as far as this process knows.

    Messages that are no requests are only counted: a leader answers those when its consumer brings them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages = DirectReader(connection, subjects.REQUESTS_STREAM)
        self._reader = Reader()
        self._requests: dict[int, TrackedRequest] = {}
        self._stored_s: dict[int, float] = {}
        self._unread: set[int] = set()
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._next = 1
        self._reading = asyncio.Lock()
        self._acks: list[Subscription] = []

    def __len__(self) -> int:
        return len(self._requests) + len(self._unread)

    async def begin(self) -> None:
        """Copy from the beginning of the queue, and hear what ends, until `end`."""
        await self.end()
        self.take(0.0)
        self._ended.clear()
        self._next = 1
        for head in ("$JS.ACK.", "$JS.ACK.*.*."):  # the second is for a server with a JetStream domain
            acks = f"{head}{subjects.REQUESTS_STREAM}.{CONSUMER}.>"
            self._acks.append(await self._connection.nc.handle(acks, self._on_ack))

    async def end(self) -> None:
        """Hear no more what ends: from here on that is up to us."""
        while self._acks:
            with contextlib.suppress(nats.errors.Error):
                await self._acks.pop().unsubscribe()

    async def follow(self) -> None:
        """Read what comes, for ever."""
        while True:
            try:
                await self.catch_up()
                await asyncio.sleep(INTERVAL_S)
            except (nats.errors.Error, TimeoutError) as error:
                logger.debug("the queue cannot be followed: %r; trying again", error)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def catch_up(self) -> None:
        """Read up to the end of the queue.

        Raises:
            TimeoutError: the server does not answer.
        """
        async with self._reading:
            while await self._messages.read(self._next, self._on_stored):
                pass

    async def complete(self) -> bool:
        """Catch up; whether this is then exactly what the durable queue holds.

        Compared a few times, since the last acknowledgements may still be on their way.
        """
        for _ in range(COMPARISONS):
            await self.catch_up()
            info = await self._connection.js.stream_info(subjects.REQUESTS_STREAM)
            if info.state.messages == len(self) and info.state.last_seq < self._next:
                return True
            if info.state.last_seq < self._next:
                await asyncio.sleep(PAUSE_S)
        return False

    def requests(self) -> list[TrackedRequest]:
        """All that is copied, in the order of the queue."""
        return [self._requests[sequence] for sequence in sorted(self._requests)]

    def take(self, stored_before_s: float) -> tuple[list[TrackedRequest], int]:
        """All requests in the order of the queue, which are the caller's from now on; the copy begins anew after
        them. Also the highest sequence stored before that time (Unix seconds), 0 if there is none.
        """
        requests = self.requests()
        old = max((sequence for sequence, at_s in self._stored_s.items() if at_s < stored_before_s), default=0)
        self._requests.clear()
        self._stored_s.clear()
        self._unread.clear()
        return requests, old

    def _on_stored(self, stored: Stored) -> None:
        sequence = stored.sequence
        self._next = sequence + 1
        if sequence in self._ended:
            return
        read = self._reader.read(stored.message, Delivery(sequence, 0, stored.stored_s, 0))
        if isinstance(read, Rejection):
            self._unread.add(sequence)
        else:
            self._requests[sequence] = read
            self._stored_s[sequence] = stored.stored_s

    def _on_ack(self, message: Message) -> None:
        if message.data not in ENDING:
            return
        sequence = Delivery.of(message.subject).sequence
        if self._requests.pop(sequence, None) is None:
            self._unread.discard(sequence)
        else:
            del self._stored_s[sequence]
        if sequence >= self._next:
            self._ended[sequence] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
