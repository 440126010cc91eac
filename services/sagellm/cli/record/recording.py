"""A recording from its beginning to its end: plain subscriptions beside the pipeline's own, and what they missed.

The durable queue has room for one consumer, the scheduler's. But whatever is published to it passes NATS as an
ordinary message first, of which every subscriber gets a copy, and so do endings. Nobody waits for this process: if
it cannot keep up, NATS drops its connection, and what was missed meanwhile is counted.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import nats.errors
import nats.js.errors

from sagellm.broker import Connection
from sagellm.simulator.traces import Ending
from sagellm_schemas import Unavailable, subjects

from .recorder import Recorder
from .trace_file import TraceFile

TICK_S = 1.0
QUIET_CHECK_S = 0.25


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a recording is."""

    elapsed_s: float
    requests: int
    open: int
    output_tokens: int
    ending: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording has. `missed` requests were stored without our having seen them; None if that cannot be
    told (one model of several). `interruptions` are times that the connection to NATS was lost."""

    file: str
    duration_s: float
    requests: int
    outcomes: dict[Ending, int]
    input_tokens: int
    output_tokens: int
    malformed: int
    missed: int | None
    interruptions: int


async def record(
    connection: Connection,
    recorder: Recorder,
    file: TraceFile,
    *,
    model: str | None,
    duration_s: float | None,
    linger_s: float,
    stop: asyncio.Event,
    hurry: asyncio.Event,
    show: Callable[[Progress], None],
    on_ready: Callable[[], None] = lambda: None,
) -> Summary:
    """Record until `stop` is set, or for `duration_s`; then wait for the endings of what has arrived, at most for
    `linger_s`, and not at all once `hurry` is set.

    Raises:
        Unavailable: there is no pipeline at that NATS server, or the file cannot be written any more.
    """
    nc = connection.nc
    interruptions = 0
    began_s = time.monotonic()

    async def interrupted() -> None:
        nonlocal interruptions
        interruptions += 1

    def progress(*, ending: bool) -> Progress:
        return Progress(
            elapsed_s=time.monotonic() - began_s,
            requests=recorder.seen,
            open=recorder.open,
            output_tokens=recorder.output_tokens,
            ending=ending,
        )

    connection.on_reconnect(interrupted)
    requests = subjects.ALL_REQUESTS if model is None else subjects.requests(model)
    async with contextlib.AsyncExitStack() as stack:
        for subject, handler in (
            (requests, recorder.on_request),
            (subjects.ALL_REPORTS, recorder.on_report),
            (subjects.CANCEL, recorder.on_cancel),
            (subjects.ALL_DEADLETTERS, recorder.on_dead_letter),
        ):
            await stack.enter_async_context(nc.handling(subject, handler))
        await nc.flush()
        first, _ = await _stored(connection)
        on_ready()
        ticking = asyncio.create_task(_tick(recorder, file, lambda: show(progress(ending=not recorder.arriving))))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, ticking], timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()
            last, _ = await _stored(connection)
            await nc.flush()
            recorder.arriving = False
            seen, duration = recorder.seen, time.monotonic() - began_s
            await _linger(connection, recorder, linger_s, hurry)
        finally:
            for task in (ticking, stopping):
                task.cancel()
            await asyncio.gather(ticking, stopping, return_exceptions=True)
            recorder.close()
    file.flush()
    return Summary(
        file=str(file.path),
        duration_s=round(duration, 3),
        requests=file.lines,
        outcomes=dict(recorder.outcomes),
        input_tokens=recorder.input_tokens,
        output_tokens=recorder.output_tokens,
        malformed=recorder.malformed,
        missed=max(0, last - first - seen - recorder.malformed) if model is None else None,
        interruptions=interruptions,
    )


async def _tick(recorder: Recorder, file: TraceFile, show: Callable[[], None]) -> None:
    """Keep the recorder, the file and the screen up to date, for ever."""
    while True:
        recorder.tick()
        file.flush()
        show()
        await asyncio.sleep(TICK_S)


async def _linger(connection: Connection, recorder: Recorder, linger_s: float, hurry: asyncio.Event) -> None:
    """Wait for endings, as long as there is something in the pipeline that could end."""
    until_s = time.monotonic() + linger_s
    while recorder.open and time.monotonic() < until_s and not hurry.is_set():
        _last, outstanding = await _stored(connection)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), QUIET_CHECK_S)
        if not outstanding:  # asked before the pause, in which the last reports have come
            return


async def _stored(connection: Connection) -> tuple[int, int]:
    """The sequence of the latest stored request, and how many are outstanding."""
    try:
        state = (await connection.js.stream_info(subjects.REQUESTS_STREAM)).state
    except nats.js.errors.NotFoundError:
        raise Unavailable("this NATS server has no sageLLM pipeline; start one with `sagellm up`") from None
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
        raise Unavailable(f"NATS does not answer: {error or type(error).__name__}") from None
    return state.last_seq, state.messages
