"""Requests go where their beginning is cached: scheduler, workers and reports are real, only the model is not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker import run as run_worker
from sagellm_schemas import (
    Codec,
    Control,
    EngineState,
    Finished,
    InstanceStats,
    PrefixUpdate,
    encode,
    subjects,
)
from sagellm_schemas.prefix import short_hashes
from sagellm_schemas.prefix_updates import pack, unpack

from .fakes import FakeReader, FakeWorker, Inbox, scheduling, until

BLOCK = 16


def conversation(number: int, blocks: int = 12) -> list[int]:
    return [(number * 37 + i) % 250 for i in range(blocks * BLOCK)]


@pytest.fixture
def prefix_aware(settings: Settings) -> Settings:
    return settings.model_copy(update={"routing": "prefix_aware", "policy": "fifo"})


class Tap:
    """What goes over the wire, for tests that wait for it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.updates = Inbox()
        self.ready = Inbox()

    async def start(self) -> "Tap":
        updates, stats = Codec(PrefixUpdate), Codec(InstanceStats)

        async def on_update(message) -> None:
            self.updates.put_nowait(updates.decode(message.data))

        async def on_stats(message) -> None:
            beat = stats.decode(message.data)
            if beat.state is EngineState.READY:
                self.ready.put_nowait(beat.info.instance_id)

        await self.connection.nc.subscribe(subjects.ALL_PREFIXES, cb=on_update)
        await self.connection.nc.subscribe(subjects.ALL_STATS, cb=on_stats)
        return self

    async def holder(self, tokens: list[int]) -> str:
        """The instance that says it has cached these, awaited."""
        wanted = set(short_hashes(tokens, BLOCK, 1000))
        told: dict[str, set[int]] = {}
        while True:
            update = await self.updates.next()
            told.setdefault(update.instance, set()).update(unpack(update.added))
            if wanted <= told[update.instance]:
                return update.instance


@contextlib.asynccontextmanager
async def mock_worker(settings: Settings, name: str, tap: Tap) -> AsyncIterator[asyncio.Event]:
    changed = {
        "engine": "mock",
        "model": "mock",
        "served_name": "tiny",
        "instance_id": name,
        "mock_prefix_blocks": 1000,
        "drain_timeout_s": 0.0,
    }
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(settings.model_copy(update=changed), stop))
    try:
        while not (await tap.ready.next()).startswith(name):
            pass
        yield stop
    finally:
        stop.set()
        await task


async def test_a_turn_goes_where_the_turn_before_was_answered(
    prefix_aware: Settings, connection: Connection
) -> None:
    reader, tap = await FakeReader(connection).start(), await Tap(connection).start()
    async with (
        mock_worker(prefix_aware, "one", tap),
        mock_worker(prefix_aware, "two", tap),
        scheduling(prefix_aware),
    ):
        homes = {}
        for number in range(4):
            await reader.send(f"first-{number}", prompt_token_ids=conversation(number))
            await reader.end_of(f"first-{number}")
            homes[number] = await tap.holder(conversation(number))
        assert len(set(homes.values())) == 2
        for number in (2, 0, 3, 1):
            grown = conversation(number) + [251, 252, 253] * BLOCK
            await reader.send(f"second-{number}", prompt_token_ids=grown)
            end = await reader.end_of(f"second-{number}")
            assert isinstance(end, Finished)
            assert end.usage is not None
            assert end.usage.cached_tokens == 12 * BLOCK


async def test_a_burst_of_one_conversation_stays_together(prefix_aware: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(prefix_aware),
        FakeWorker(prefix_aware, "one", capacity=20) as one,
        FakeWorker(prefix_aware, "two", capacity=20) as two,
    ):
        for i in range(6):
            await reader.send(f"r{i}", prompt_token_ids=[*conversation(1, blocks=60), i])
        await until(lambda: len(one.running) + len(two.running) == 6)
        assert sorted((len(one.running), len(two.running))) == [0, 6]


async def test_what_a_worker_says_it_holds_decides(prefix_aware: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(prefix_aware),
        FakeWorker(prefix_aware, "one", capacity=20) as one,
        FakeWorker(prefix_aware, "two", capacity=20) as two,
    ):
        await until(lambda: one.term and two.term)
        for number, worker in enumerate((one, two, two, one)):
            blocks = pack(short_hashes(conversation(number), BLOCK, 100))
            update = PrefixUpdate(
                instance=worker.info.instance_id, number=1, block_size=BLOCK, reset=True, added=blocks
            )
            await worker.connection.nc.publish(subjects.prefixes(update.instance), encode(update))
            await worker.connection.nc.flush()
            await connection.nc.request(
                subjects.METRICS, b"{}"
            )  # what came before it is known when it is answered
            await reader.send(f"r{number}", prompt_token_ids=conversation(number))
            assert (await worker.items.next()).request.id == f"r{number}"


async def test_after_a_lost_report_the_scheduler_asks_for_a_full_account(
    prefix_aware: Settings, connection: Connection
) -> None:
    async with scheduling(prefix_aware), FakeWorker(prefix_aware, "one") as worker:
        later = encode(PrefixUpdate(instance="one", number=7, block_size=BLOCK, added=pack([1])))

        async def asked() -> bool:
            await connection.nc.publish(subjects.prefixes("one"), later)
            return not worker.controls.empty() and (await worker.controls.next()).prefixes

        await until(asked)


async def test_a_worker_gives_a_full_account_when_it_is_asked(
    prefix_aware: Settings, connection: Connection
) -> None:
    tap = await Tap(connection).start()
    async with mock_worker(prefix_aware, "one", tap):
        first = await tap.updates.next()
        assert (first.reset, first.number, first.added) == (True, 1, b"")
        await connection.nc.request(subjects.control(first.instance), encode(Control(prefixes=True)), timeout=5)
        second = await tap.updates.next()
        assert (second.reset, second.number) == (True, 2)
