"""The consumer of the durable queue: every accepted request comes to this process and stays until it ends."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import nats.errors
import nats.js.errors
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from sagellm.broker import Connection, Message, Sender
from sagellm.scheduler.cancellations import Cancellations
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.models import Models
from sagellm.scheduler.queue_copy import CONSUMER
from sagellm.scheduler.reading import Delivery, Reader, Rejection
from sagellm.scheduler.rejections import Rejections
from sagellm.scheduler.replies import Replies
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.timings import Timings
from sagellm_schemas import InvalidRequest, SageError, subjects

logger = logging.getLogger(__name__)

ACK_WAIT_S = 3600.0
SILENT_BEATS = 3
RETRY_PAUSE_S = 0.25


class Intake:
    """One push consumer with flow control; it is made anew whenever something may have been missed.

    A message that comes again is known by its sequence: its request goes on, only its acknowledgement subject
    is new. `judge` tells why a request may not wait, if so; `place` gets every other that is new to this leader.
    """

    def __init__(
        self,
        connection: Connection,
        table: RequestTable,
        models: Models,
        cancellations: Cancellations,
        rejections: Rejections,
        endings: Endings,
        replies: Replies,
        sender: Sender,
        timings: Timings,
        metrics: SchedulerMetrics,
        judge: Callable[[TrackedRequest], SageError | None],
        place: Callable[[TrackedRequest], None],
    ) -> None:
        self._connection = connection
        self._table = table
        self._models = models
        self._cancellations = cancellations
        self._rejections = rejections
        self._endings = endings
        self._replies = replies
        self._sender = sender
        self._timings = timings
        self._metrics = metrics
        self._judge = judge
        self._place = place
        self._reader = Reader()
        self._subscription: Subscription | None = None
        self._remake = asyncio.Event()
        self._remake.set()
        self._ordinal = 0
        self._replay_ends_at: int | None = None
        self._heard_s = 0.0
        self.last_sequence = 0
        """The latest message that the consumer has brought."""
        self.replayed = asyncio.Event()
        """Set once everything that was outstanding when this leader began has come."""

    async def run(self) -> None:
        """Consume for as long as this leader leads."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._timings.consumer_heartbeat_s):
                        await self._remake.wait()
                except TimeoutError:
                    if time.monotonic() - self._heard_s < SILENT_BEATS * self._timings.consumer_heartbeat_s:
                        continue
                    logger.warning("the queue's consumer is silent, making it anew")
                try:
                    await self._make_consumer()
                except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                    logger.warning("the queue's consumer cannot be made: %r; trying again", error)
                    self._remake.set()
                    await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            await self._unsubscribe()

    def remake(self) -> None:
        """Something may have been missed: consume anew."""
        self._remake.set()

    async def _make_consumer(self) -> None:
        js = self._connection.js
        await self._unsubscribe()
        self._remake.clear()
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await js.delete_consumer(subjects.REQUESTS_STREAM, CONSUMER)
        inbox = self._connection.nc.new_inbox()
        self._ordinal = 0
        self._replay_ends_at = None
        self._heard_s = time.monotonic()
        self._subscription = await self._connection.nc.handle(inbox, self._on_message)
        info = await js.add_consumer(
            subjects.REQUESTS_STREAM,
            ConsumerConfig(
                durable_name=CONSUMER,
                description="The leading scheduler",
                deliver_subject=inbox,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_ack_pending=-1,
                flow_control=True,
                idle_heartbeat=self._timings.consumer_heartbeat_s,
                mem_storage=True,
            ),
        )
        delivered = info.delivered.consumer_seq if info.delivered else 0
        self._replay_ends_at = (info.num_pending or 0) + delivered
        if self._ordinal >= self._replay_ends_at:
            self.replayed.set()

    async def _unsubscribe(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
            self._subscription = None

    def _on_message(self, message: Message) -> None:
        if not message.reply.startswith("$JS.ACK."):
            self._on_control(message)
            return
        delivery = Delivery.of(message.reply)
        self._ordinal += 1
        if delivery.ordinal != self._ordinal:
            self._ordinal = delivery.ordinal
            logger.warning("messages of the queue were missed, consuming anew")
            self.remake()
        self._accept_delivery(message, delivery)
        if delivery.pending == 0 or self._ordinal == self._replay_ends_at:
            self.replayed.set()
        self._heard_s = time.monotonic()  # while messages come, the server sends no heartbeats

    def _accept_delivery(self, message: Message, delivery: Delivery) -> None:
        sequence = self.last_sequence = delivery.sequence
        known = self._table.at(sequence)
        if known is not None:
            known.ack_subject = message.reply
        elif self._table.was_settled(sequence):
            self._endings.settle_again(sequence, message.reply)
        elif sequence not in self._rejections:
            read = self._reader.read(message, delivery)
            if isinstance(read, Rejection):
                self._rejections.put(read)
            elif read.request not in self._models:
                self._rejections.unknown_model(read)
            else:
                self.accept(read)

    def inherit(self, tracked: TrackedRequest) -> bool:
        """Begin to answer for a request that was read beside the consumer, which will bring its message later.

        What is not simply a new request of a known model is left to that time: then False is returned. Nothing is
        sent for a request that is not cancelled, and it does not count as arrived yet.
        """
        table, request = self._table, tracked.request
        if (
            request in self._models
            and table.get(request.id) is None
            and table.at(tracked.sequence) is None
            and not table.was_settled(tracked.sequence)
            and tracked.sequence not in self._rejections
        ):
            self._begin(tracked)
            return True
        return False

    def accept(self, tracked: TrackedRequest) -> None:
        """Begin to answer for a request of a known model."""
        twin = self._table.get(tracked.id)
        if twin is not None:
            self._refuse_twin(tracked, twin)
            return
        refusal = self._judge(tracked)
        if refusal is not None:
            self._refuse(tracked, refusal)
            return
        self._metrics.requests.arrived()
        self._begin(tracked)

    def _begin(self, tracked: TrackedRequest) -> None:
        self._table.add(tracked)
        if tracked.id in self._cancellations:
            self._endings.cancel(tracked)
        else:
            self._place(tracked)

    def _refuse_twin(self, tracked: TrackedRequest, twin: TrackedRequest) -> None:
        """The same id again: the same request sent twice, or somebody else's mistake."""
        if tracked.request.reply_to != twin.request.reply_to:
            self._refuse(tracked, InvalidRequest("this id is in use; give every request its own", param="id"))
        else:
            self._endings.settle_again(tracked.sequence, tracked.ack_subject)

    def _refuse(self, tracked: TrackedRequest, error: SageError) -> None:
        """Answer a request that nobody began to answer for, and let its message go."""
        self._replies.failed(tracked.request.reply_to, tracked.reply_format, tracked.id, error.body())
        self._endings.settle_again(tracked.sequence, tracked.ack_subject)

    def _on_control(self, message: Message) -> None:
        """Flow control and idle heartbeats of the server."""
        self._heard_s = time.monotonic()
        headers = message.headers
        if message.reply:
            self._sender.send(message.reply)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            self._sender.send(stalled)
        last = headers.get("Nats-Last-Consumer")
        if last and last.isdigit() and int(last) > self._ordinal:
            logger.warning("messages of the queue were missed, consuming anew")
            self.remake()
