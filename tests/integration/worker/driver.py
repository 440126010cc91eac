"""The other ends of the worker's wire: the scheduler that gives it work, and the reader of its frames."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from nats.aio.msg import Msg

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker import run
from sagellm_schemas import (
    JSON,
    MSGPACK,
    Cancel,
    Codec,
    Control,
    Ended,
    EngineState,
    Event,
    Frame,
    InferenceRequest,
    InstanceReport,
    InstanceStats,
    SamplingParams,
    Tokens,
    WorkItem,
    WorkReport,
    encode,
    sniff,
    subjects,
)

TIMEOUT_S = 20.0
REPLY_TO = subjects.replies("reader")


class Log:
    """Everything that arrived, in order; waiting for something looks at the past too."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._arrived = asyncio.Condition()

    async def add(self, thing: Any) -> None:
        async with self._arrived:
            self.seen.append(thing)
            self._arrived.notify_all()

    async def find(self, wanted: Callable[[Any], bool], after: int = 0) -> Any:
        """The first thing that is wanted, from the index `after` on."""
        async with asyncio.timeout(TIMEOUT_S), self._arrived:
            await self._arrived.wait_for(lambda: any(map(wanted, self.seen[after:])))
        return next(filter(wanted, self.seen[after:]))


class Driver:
    """Speaks to one worker as a scheduler and reader would."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.heartbeats, self.reports, self.frames, self.events = Log(), Log(), Log(), Log()
        self.instance = ""

    async def listen(self) -> "Driver":
        nc = self.connection.nc
        await nc.subscribe(subjects.ALL_STATS, cb=self._on_stats)
        await nc.subscribe(subjects.ALL_REPORTS, cb=self._on_report)
        await nc.subscribe(REPLY_TO, cb=self._on_frame)
        return self

    async def state(self, state: EngineState) -> InstanceStats:
        """The next heartbeat that shows `state`."""
        return await self.heartbeats.find(lambda beat: beat.state is state, after=len(self.heartbeats.seen))

    async def give(
        self,
        request_id: str,
        *,
        attempt: int = 1,
        term: int = 0,
        resume: list[int] | None = None,
        reply_format: str = MSGPACK,
        sampling: SamplingParams | None = None,
        **fields: Any,
    ) -> None:
        """Assign a request to the worker."""
        fields = {"model": "mock", "prompt": "Hello", "reply_to": REPLY_TO, "sampling": sampling or MANY} | fields
        if "messages" in fields or "prompt_token_ids" in fields:
            fields["prompt"] = None
        item = WorkItem(
            request=InferenceRequest(id=request_id, **fields),
            attempt=attempt,
            term=term,
            resume_token_ids=resume or [],
            reply_format=reply_format,
        )
        await self.connection.js.publish(subjects.work("general", self.instance), encode(item))

    async def ended(self, request_id: str, attempt: int = 1) -> Ended:
        """How a work item ended."""
        return await self.reports.find(lambda ended: (ended.id, ended.attempt) == (request_id, attempt))

    async def tokens(self, request_id: str) -> Tokens:
        """The first tokens of an answer."""
        return await self.events.find(lambda event: isinstance(event, Tokens) and event.id == request_id)

    def events_of(self, request_id: str) -> list[Event]:
        return [event for event in self.events.seen if event.id == request_id]

    def text_of(self, request_id: str) -> str:
        return "".join(event.text for event in self.events_of(request_id) if isinstance(event, Tokens))

    async def control(self, **order: Any) -> InstanceReport:
        reply = await self.connection.nc.request(
            subjects.control(self.instance), encode(Control(**order)), timeout=5
        )
        return Codec(InstanceReport).decode(reply.data)

    async def cancel(self, *ids: str) -> None:
        await self.connection.nc.publish(subjects.CANCEL, encode(Cancel(ids=list(ids)), JSON))
        await self.connection.nc.flush()

    async def undelivered(self) -> int:
        """Work items that have not been acknowledged."""
        return (await self.connection.js.stream_info(subjects.WORK_STREAM)).state.messages

    async def _on_stats(self, message: Msg) -> None:
        beat = Codec(InstanceStats).decode(message.data)
        self.instance = beat.info.instance_id
        await self.heartbeats.add(beat)

    async def _on_report(self, message: Msg) -> None:
        for ended in Codec(WorkReport).decode(message.data).ended:
            await self.reports.add(ended)

    async def _on_frame(self, message: Msg) -> None:
        frame = Codec(Frame).decode(message.data)
        await self.frames.add((sniff(message.data), frame))
        for event in frame.events:
            await self.events.add(event)


MANY = SamplingParams(max_tokens=10_000)
"""With a time per token: for ever, as a test sees it."""


@contextlib.asynccontextmanager
async def working(settings: Settings, driver: Driver) -> AsyncIterator[asyncio.Event]:
    """A worker, ready; it is stopped at the end, or when the yielded event is set."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    ready = asyncio.create_task(driver.state(EngineState.READY))
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        await ready
        yield stop
    finally:
        stop.set()
        ready.cancel()
        await task
