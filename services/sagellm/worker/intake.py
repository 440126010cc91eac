"""Work items in: the consumer on the WORK stream, and the decision what to do with each item."""

import asyncio
import logging
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from sagellm.broker import Connection
from sagellm_engine.contract import AsyncEngine, GenerateRequest
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import (
    Codec,
    EngineError,
    InferenceRequest,
    InstanceRole,
    InvalidRequest,
    RequestPriority,
    SageError,
    WorkItem,
    subjects,
)

from .ledger import Job, Ledger
from .outbox import Outbox

logger = logging.getLogger(__name__)

ACK_WAIT_S = 600.0
"""After this long an item that still runs is delivered again, and known to run."""
INACTIVE_THRESHOLD_S = 60.0
"""How long the consumer outlives its worker."""
LONG_PROMPT_CHARS = 16_384
"""Prompts from this length are tokenized beside the event loop, so that heartbeats go on."""


class Intake:
    """Takes work items and starts them in the engine.

    `accepting` tells whether new work may start; items that come while it says no are handed back.
    """

    def __init__(
        self,
        connection: Connection,
        engine: AsyncEngine,
        ledger: Ledger,
        outbox: Outbox,
        tokenizer: Tokenizer | None,
        accepting: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._ledger = ledger
        self._outbox = outbox
        self._tokenizer = tokenizer
        self._accepting = accepting
        self._codec = Codec(WorkItem)
        self._consumer: ConsumerConfig | None = None

    async def open(self, role: InstanceRole, instance: str) -> None:
        """Begin to take the items of `instance`."""
        inbox = self._connection.nc.new_inbox()
        self._consumer = ConsumerConfig(
            name=subjects.token(instance),
            filter_subject=subjects.work(role, instance),
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=-1,
            inactive_threshold=INACTIVE_THRESHOLD_S,
            mem_storage=True,
        )
        await self._connection.nc.subscribe(
            inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        await self.ensure()

    async def ensure(self) -> None:
        """Create the consumer if it is missing: a server that has restarted forgets it."""
        if self._consumer is not None:
            await self._connection.js.add_consumer(subjects.WORK_STREAM, self._consumer)

    async def close(self) -> None:
        """Remove the consumer, and items that nobody will take any more: the scheduler knows them."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            js = self._connection.js
            await js.delete_consumer(subjects.WORK_STREAM, str(consumer.name))
            await js.purge_stream(subjects.WORK_STREAM, subject=consumer.filter_subject)

    async def _on_message(self, msg: Msg) -> None:
        try:
            item = self._codec.decode(msg.data)
        except InvalidRequest as error:
            logger.error("a work item cannot be read and is dropped: %s", error)
            self._outbox.acknowledge(msg.reply)
            return
        await self.take(item, msg.reply)

    async def take(self, item: WorkItem, ack: str) -> None:
        """Start `item`, or answer why not; `ack` is the subject that acknowledges it."""
        request, ledger = item.request, self._ledger
        if not ledger.fence(item.term):
            logger.warning("refused %s of term %d: the term is %d", request.id, item.term, ledger.term)
            self._outbox.acknowledge(ack)
            return
        if ledger.has_ended(request.id, item.attempt):
            self._outbox.acknowledge(ack)
            return
        older = ledger.running(request.id)
        if older is not None:
            if item.attempt <= older.attempt:
                return  # delivered twice; the first delivery runs
            self._engine.abort(older.key)
            ledger.forget(older)
            self._outbox.acknowledge(older.ack)
        job = ledger.accept(item, ack)
        if ledger.was_cancelled(job.id):
            self._outbox.cancelled([job])
        elif not self._accepting():
            self._outbox.returned([job])
        else:
            await self._start(job, item)

    async def _start(self, job: Job, item: WorkItem) -> None:
        try:
            prompt = await self._prompt(item.request)
            if self._ledger.jobs.get(job.key) is job:  # else cancelled while it was tokenized
                self._engine.generate(_generate_request(job, item, prompt))
        except SageError as error:
            self._end(job, error)
        except Exception as error:
            logger.exception("request %s could not be started", job.id)
            self._end(job, EngineError(f"the engine could not start the request: {type(error).__name__}"))

    async def _prompt(self, request: InferenceRequest) -> list[int]:
        """The prompt as token ids; empty where the engine has no tokenizer and takes text."""
        if request.prompt_token_ids is not None or self._tokenizer is None:
            return request.prompt_token_ids or []
        if _chars(request) < LONG_PROMPT_CHARS:
            return self._tokenizer.prompt_tokens(request)
        return await asyncio.to_thread(self._tokenizer.prompt_tokens, request)

    def _end(self, job: Job, error: SageError) -> None:
        if self._ledger.jobs.get(job.key) is job:
            self._outbox.failed(job, error)


def _generate_request(job: Job, item: WorkItem, prompt: list[int]) -> GenerateRequest:
    request = item.request
    return GenerateRequest(
        id=job.key,
        sampling=request.sampling,
        prompt_token_ids=prompt,
        messages=None if prompt else request.messages,
        prompt=None if prompt else request.prompt,
        resume_token_ids=item.resume_token_ids,
        priority=RequestPriority.parse(request.priority).value,
    )


def _chars(request: InferenceRequest) -> int:
    if request.prompt is not None:
        return len(request.prompt)
    return sum(len(message.text()) for message in request.messages or ())
