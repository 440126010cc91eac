"""Work items in: the consumer on the WORK stream, and the decision what to do with each item."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from sagellm.broker import Connection, Message
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
"""Prompts from this length are tokenized beside the event loop, one after the other: heartbeats go on, and items
behind them are accepted at once. One that is not would look lost to the scheduler."""


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
        self._long: asyncio.Queue[tuple[Job, WorkItem]] = asyncio.Queue()

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
        await self._connection.nc.handle(inbox, self._on_message)
        await self.ensure()

    async def start_long_prompts(self) -> None:
        """Start the requests whose prompts take long to tokenize, for ever."""
        while True:
            job, item = await self._long.get()
            with self._answering(job):
                if not self._runs(job):
                    continue  # cancelled while it waited
                prompt = await asyncio.to_thread(self._prompt, item.request)
                if self._runs(job):
                    self._engine.generate(_generate_request(job, item, prompt))

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

    def _on_message(self, msg: Message) -> None:
        try:
            item = self._codec.decode(msg.data)
        except InvalidRequest as error:
            logger.error("a work item cannot be read and is dropped: %s", error)
            self._outbox.acknowledge(msg.reply)
            return
        self.take(item, msg.reply)

    def take(self, item: WorkItem, ack: str) -> None:
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
            self._start(job, item)

    def _start(self, job: Job, item: WorkItem) -> None:
        with self._answering(job):
            if self._is_long(item.request):
                self._long.put_nowait((job, item))
            else:
                self._engine.generate(_generate_request(job, item, self._prompt(item.request)))

    def _is_long(self, request: InferenceRequest) -> bool:
        untokenized = self._tokenizer is not None and request.prompt_token_ids is None
        return untokenized and _chars(request) >= LONG_PROMPT_CHARS

    def _prompt(self, request: InferenceRequest) -> list[int]:
        """The prompt as token ids; empty where the engine has no tokenizer and takes text."""
        if request.prompt_token_ids is not None or self._tokenizer is None:
            return list(request.prompt_token_ids or ())
        return self._tokenizer.prompt_tokens(request)

    def _runs(self, job: Job) -> bool:
        return self._ledger.jobs.get(job.key) is job

    @contextlib.contextmanager
    def _answering(self, job: Job) -> Iterator[None]:
        """Whatever goes wrong in starting `job` is its answer."""
        try:
            yield
        except SageError as error:
            self._end(job, error)
        except Exception as error:
            logger.exception("request %s could not be started", job.id)
            self._end(job, EngineError(f"the engine could not start the request: {type(error).__name__}"))

    def _end(self, job: Job, error: SageError) -> None:
        if self._runs(job):
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
        tbt_slo_ms=request.tbt_slo_ms if item.paced else None,
        adapter=request.adapter,
    )


def _chars(request: InferenceRequest) -> int:
    if request.prompt is not None:
        return len(request.prompt)
    return sum(len(message.text()) for message in request.messages or ())
