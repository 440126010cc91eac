"""The other ends of the scheduler's wire, made by hand: a worker, a reader, and the scheduler's own process."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from urllib.request import urlopen

from nats.aio.msg import Msg

from sagellm.broker import Connection, connect
from sagellm.scheduler.main import run
from sagellm.settings import Settings
from sagellm_schemas import (
    Cancel,
    Codec,
    Control,
    Ended,
    EngineState,
    EngineStats,
    ErrorBody,
    Event,
    Finished,
    Frame,
    Held,
    HeldQuery,
    HeldReply,
    InferenceRequest,
    InstanceInfo,
    InstanceReport,
    InstanceStats,
    ModelCard,
    Outcome,
    SamplingParams,
    Tokens,
    WorkItem,
    WorkReport,
    encode,
    subjects,
)

MODEL = "tiny"
MAX_PAYLOAD_BYTES = 1 << 20
TIMEOUT_S = 15.0


class Inbox(asyncio.Queue):
    """Things that arrived, awaited one by one with a limit."""

    async def next(self, timeout_s: float = TIMEOUT_S):
        async with asyncio.timeout(timeout_s):
            return await self.get()

    async def take(self, count: int) -> list:
        return [await self.next() for _ in range(count)]


class FakeWorker:
    """Registers, heartbeats, takes work, answers control and hands back what it is told to, as a worker does; what
    else happens to an item is up to the test: it finds it in `items` and calls `end`, or gives `auto` to end each
    at once."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        model: str = MODEL,
        capacity: int = 4,
        auto: bool = False,
        **info: object,
    ):
        self.settings = settings
        self.info = InstanceInfo(instance_id=name, model=model, max_concurrent_requests=capacity, **info)
        self.auto = auto
        self.items = Inbox()
        self.controls = Inbox()
        self.running: dict[str, int] = {}
        self.ended: list[Ended] = []
        self.term = 0
        self.refused: list[WorkItem] = []
        self._taken: dict[str, tuple[WorkItem, Msg]] = {}
        self.state = EngineState.READY
        self.silent = False
        self.deaf = False
        self.hands_back = True

    async def __aenter__(self) -> "FakeWorker":
        self._stack = contextlib.AsyncExitStack()
        self.connection: Connection = await self._stack.enter_async_context(
            connect(self.settings, self.info.instance_id)
        )
        nc, js = self.connection.nc, self.connection.js
        instance = self.info.instance_id
        self._items, self._orders = Codec(WorkItem), Codec(Control)
        await nc.subscribe(subjects.control(instance), cb=self._on_control)
        models = await js.key_value(subjects.MODELS_BUCKET)
        await models.put(
            subjects.token(self.info.model), encode(ModelCard(name=self.info.model, max_model_len=4096))
        )
        for name in self.info.adapters:
            adapter = ModelCard(name=name, max_model_len=4096, parent=self.info.model)
            await models.put(subjects.token(name), encode(adapter))
        instances = await js.key_value(subjects.INSTANCES_BUCKET)
        await instances.put(subjects.token(instance), encode(self.info))
        await self.subscribe()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await self._stack.aclose()

    async def subscribe(self) -> None:
        """Take work; again after a restart of the broker, whose memory is gone."""
        subject = subjects.work(self.info.role, self.info.instance_id)
        await self.connection.js.subscribe(subject, stream=subjects.WORK_STREAM, cb=self._on_item, manual_ack=True)

    async def kill(self) -> None:
        """Gone from one moment to the next."""
        await self.__aexit__()

    def item(self, request_id: str) -> WorkItem:
        """The item of a request that runs here."""
        return self._taken[request_id][0]

    async def heartbeat(self) -> None:
        await self.connection.nc.publish(subjects.stats(self.info.instance_id), encode(self._stats()))

    async def tell(self, item: WorkItem, token_ids: list[int], offset: int = 0) -> None:
        """Send tokens to the reader."""
        event = Tokens(id=item.request.id, attempt=item.attempt, offset=offset, token_ids=token_ids)
        await self._frame(item, event)

    async def end(
        self,
        item: WorkItem,
        outcome: Outcome = Outcome.FINISHED,
        error: ErrorBody | None = None,
        *,
        report: bool = True,
    ) -> None:
        """End an item; with `report` false the report is lost, but remembered."""
        request_id = item.request.id
        self.running.pop(request_id, None)
        taken = self._taken.pop(request_id, None)
        if taken is not None:
            await taken[1].ack()
        ended = Ended(id=request_id, attempt=item.attempt, outcome=outcome, error=error)
        self.ended.append(ended)
        if outcome is Outcome.FINISHED:
            await self._frame(item, Finished(id=request_id, attempt=item.attempt))
        if report:
            message = WorkReport(instance=self.info.instance_id, ended=[ended])
            await self.connection.nc.publish(subjects.reports(self.info.instance_id), encode(message))

    async def _frame(self, item: WorkItem, event: Event) -> None:
        if item.request.reply_to:
            frame = encode(Frame(events=[event], instance=self.info.instance_id), item.reply_format)
            await self.connection.nc.publish(item.request.reply_to, frame)

    async def _beat(self) -> None:
        while True:
            if not self.silent:
                await self.heartbeat()
            await asyncio.sleep(self.settings.heartbeat_interval_s)

    def _stats(self) -> InstanceStats:
        return InstanceStats(
            info=self.info,
            state=self.state,
            running=dict(self.running),
            stats=EngineStats(),
            sent_at=time.time(),
            term=self.term,
        )

    async def _on_item(self, message: Msg) -> None:
        item = self._items.decode(message.data)
        if item.term < self.term:
            self.refused.append(item)
            await message.ack()
            return
        self._taken[item.request.id] = (item, message)
        self.term = item.term
        self.running[item.request.id] = item.attempt
        if self.auto:
            await self.end(item)
        self.items.put_nowait(item)

    async def _on_control(self, message: Msg) -> None:
        if self.deaf:
            return
        order = self._orders.decode(message.data)
        self.controls.put_nowait(order)
        self.term = max(self.term, order.term)
        for request_id in order.preempt:
            if self.hands_back and request_id in self._taken:
                await self.end(self.item(request_id), Outcome.RETURNED)
        if message.reply:
            await message.respond(encode(InstanceReport(heartbeat=self._stats(), ended=self.ended)))


class FakeReader:
    """A reply owner as an ingress is one: it holds tokens by id, drops lower attempts, answers `HeldQuery`."""

    def __init__(self, connection: Connection, owner: str = "reader") -> None:
        self.connection = connection
        self.reply_to = subjects.replies(owner)
        self.owner = owner
        self.held: dict[str, list[int]] = {}
        self.attempts: dict[str, int] = {}
        self.terminal: dict[str, Event] = {}
        self.events = Inbox()
        self.queries = Inbox()

    async def start(self) -> "FakeReader":
        self._frames, self._queries = Codec(Frame), Codec(HeldQuery)
        await self.connection.nc.subscribe(self.reply_to, cb=self._on_frame)
        await self.connection.nc.subscribe(subjects.held(self.owner), cb=self._on_query)
        return self

    async def send(self, request_id: str, **fields: object) -> None:
        """Publish a request whose frames come here."""
        usual = {"model": MODEL, "prompt_token_ids": [1, 2, 3], "reply_to": self.reply_to}
        request = InferenceRequest(**(usual | {"id": request_id, "sampling": SamplingParams(seed=1)} | fields))
        self.held[request_id] = []
        await publish(self.connection, request)

    async def cancel(self, *ids: str) -> None:
        for request_id in ids:
            self.held.pop(request_id, None)
        await self.connection.nc.publish(subjects.CANCEL, encode(Cancel(ids=list(ids))))

    async def end_of(self, request_id: str) -> Event:
        """The terminal event of a request, awaited."""
        while request_id not in self.terminal:
            await self.events.next()
        return self.terminal[request_id]

    async def ends_of(self, ids: list[str]) -> list[Event]:
        return [await self.end_of(request_id) for request_id in ids]

    async def _on_frame(self, message: Msg) -> None:
        for event in self._frames.decode(message.data).events:
            if event.attempt < self.attempts.get(event.id, 0):
                continue
            assert event.id not in self.terminal, f"{event} after {self.terminal[event.id]}"
            self.attempts[event.id] = event.attempt
            if isinstance(event, Tokens):
                self.held[event.id][event.offset :] = event.token_ids
            else:
                self.terminal[event.id] = event
            self.events.put_nowait(event)

    async def _on_query(self, message: Msg) -> None:
        query = self._queries.decode(message.data)
        self.attempts.update(query.attempts)
        wanted = [i for i in query.attempts if i in self.held and i not in self.terminal]
        reply = HeldReply(held={i: Held(token_ids=self.held[i]) for i in wanted})
        await message.respond(encode(reply))
        self.queries.put_nowait(query)


class FakeScheduler:
    """A scheduler in this process that can be stopped, or killed as by kill -9."""

    def __init__(self, settings: Settings) -> None:
        self.stop_event = asyncio.Event()
        self.task = asyncio.create_task(run(settings, self.stop_event))

    async def stop(self) -> None:
        self.stop_event.set()
        await self.task


class SchedulerProcess:
    """A scheduler in a process of its own, to be killed or frozen."""

    SCRIPT = (
        "import asyncio; from sagellm.logs import configure; configure('info', 'scheduler');"
        "from sagellm.scheduler.main import run; from sagellm.settings import Settings;"
        "asyncio.run(run(Settings.load(), asyncio.Event()))"
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def __aenter__(self) -> "SchedulerProcess":
        environment = os.environ | self.settings.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-c", self.SCRIPT, env=environment)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def exposition(port: int) -> str:
    """What a scheduler tells Prometheus."""
    url = f"http://127.0.0.1:{port}/metrics"
    return await asyncio.to_thread(lambda: urlopen(url).read().decode())


async def publish(connection: Connection, request: InferenceRequest) -> None:
    await connection.js.publish(
        subjects.requests(request.model), encode(request), headers={subjects.MESSAGE_ID: request.id}
    )


async def outstanding(connection: Connection) -> int:
    """Messages in the durable queue."""
    return (await connection.js.stream_info(subjects.REQUESTS_STREAM)).state.messages


async def queue_is_empty(connection: Connection) -> bool:
    """Whether every request has been acknowledged."""
    return await outstanding(connection) == 0


async def until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Wait for something that has no event of its own: a state inside NATS."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def scheduling(settings: Settings) -> AsyncIterator[FakeScheduler]:
    """A scheduler for as long as the context lasts."""
    scheduler = FakeScheduler(settings)
    try:
        yield scheduler
    finally:
        await scheduler.stop()
