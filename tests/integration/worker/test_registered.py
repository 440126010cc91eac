"""Servers that operators register are served by one worker process at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker import run
from sagellm.worker.claim import Claim, ClaimLost
from sagellm_schemas import (
    JSON,
    Codec,
    EngineState,
    InstanceStats,
    Outcome,
    Registration,
    SamplingParams,
    encode,
    subjects,
)

from .driver import Driver, Log, working
from .fake_vllm import NAME, SENTENCE, FakeVllm

KEY = "server.gpu-1"


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm().running() as running:
        yield running


class Heartbeats:
    """Those of instances that serve a registered server."""

    def __init__(self, connection: Connection) -> None:
        self.log = Log()
        self._codec = Codec(InstanceStats)
        self._connection = connection

    async def listen(self) -> "Heartbeats":
        async def on_message(message) -> None:
            beat = self._codec.decode(message.data)
            if beat.info.server:
                await self.log.add(beat)

        await self._connection.nc.subscribe(subjects.ALL_STATS, cb=on_message)
        return self

    async def of(self, state: EngineState, *but: str) -> InstanceStats:
        """The first heartbeat with `state` of another instance than these."""
        return await self.log.find(lambda beat: beat.state is state and beat.info.instance_id not in but)


@pytest.fixture
async def heartbeats(connection: Connection) -> Heartbeats:
    return await Heartbeats(connection).listen()


async def register(connection: Connection, url: str, **fields: object) -> None:
    bucket = await connection.js.key_value(subjects.ORDERS_BUCKET)
    await bucket.put(KEY, encode(Registration(url=url, id="gpu-1", **fields), JSON))


async def unregister(connection: Connection) -> None:
    await (await connection.js.key_value(subjects.ORDERS_BUCKET)).delete(KEY)


@contextlib.asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[asyncio.Event]:
    """A worker process, as far as the broker can tell; it leaves at the end, or when the event is set."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait([task])


async def test_a_registered_server_answers_as_an_instance_until_it_is_unregistered(
    mock: Settings, driver: Driver, connection: Connection, server: FakeVllm, heartbeats: Heartbeats
) -> None:
    async with working(mock, driver):
        await register(connection, server.url, max_concurrent_requests=7, price_per_hour=2.5)
        info = (await heartbeats.of(EngineState.READY)).info
        assert (info.server, info.model, info.engine) == ("gpu-1", NAME, "vllm")
        assert (info.max_concurrent_requests, info.price_per_hour) == (7, 2.5)
        driver.instance = info.instance_id
        await driver.give("a", model=NAME, sampling=SamplingParams(max_tokens=50))
        assert (await driver.ended("a")).outcome is Outcome.FINISHED
        assert driver.text_of("a") == SENTENCE
        await unregister(connection)
        await heartbeats.of(EngineState.STOPPED)


async def test_another_worker_takes_a_server_over_when_the_first_one_leaves(
    mock: Settings, connection: Connection, server: FakeVllm, heartbeats: Heartbeats
) -> None:
    await register(connection, server.url)
    async with worker(mock) as first:
        before = (await heartbeats.of(EngineState.READY)).info.instance_id
        async with worker(mock):
            first.set()
            after = (await heartbeats.of(EngineState.READY, before)).info
            assert after.server == "gpu-1"
            seen = {beat.info.instance_id for beat in heartbeats.log.seen}
            assert seen == {before, after.instance_id}


async def test_a_changed_registration_is_served_as_it_is_now(
    mock: Settings, connection: Connection, server: FakeVllm, heartbeats: Heartbeats
) -> None:
    await register(connection, server.url)
    async with worker(mock):
        before = (await heartbeats.of(EngineState.READY)).info
        await register(connection, server.url, price_per_hour=4.0)
        after = (await heartbeats.of(EngineState.READY, before.instance_id)).info
        assert (before.price_per_hour, after.price_per_hour) == (0.0, 4.0)


async def test_a_claim_is_held_by_one_and_free_when_it_is_given_up(connection: Connection) -> None:
    bucket = await connection.js.key_value(subjects.CLAIMS_BUCKET)
    one, other = (Claim(bucket, "gpu-1", holder, ttl_s=5.0) for holder in ("one", "other"))
    assert await one.take()
    assert not await other.take()
    await one.release()
    assert await other.take()


async def test_whoever_has_lost_a_claim_is_told(connection: Connection) -> None:
    bucket = await connection.js.key_value(subjects.CLAIMS_BUCKET)
    one, other = (Claim(bucket, "gpu-1", holder, ttl_s=0.2) for holder in ("one", "other"))
    assert await one.take()
    keeping = asyncio.create_task(one.keep())
    await bucket.delete("gpu-1")
    assert await other.take()
    with pytest.raises(ClaimLost):
        await keeping
