"""What happens when the leader dies, freezes, or loses NATS: a standby goes on, and nothing runs twice."""

import contextlib
import logging
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from nats.js.errors import KeyNotFoundError, NotFoundError
from pydantic import SecretStr

from sagellm.broker import Connection, connect, embedded_server, ensure_topology
from sagellm.settings import Settings
from sagellm_schemas import Codec, EngineError, Finished, Lease, Outcome, subjects

from .fakes import (
    MAX_PAYLOAD_BYTES,
    FakeReader,
    FakeWorker,
    SchedulerProcess,
    outstanding,
    queue_is_empty,
    scheduling,
    until,
)


async def test_a_standby_takes_over_with_the_queue_intact(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=2) as worker:
        await reader.send("running-1", can_be_preempted=False)
        await reader.send("running-2", can_be_preempted=False)
        running = await worker.items.take(2)
        await reader.send("low", priority="low")
        await reader.send("critical", priority="critical")
        async with scheduling(settings):
            await until(lambda: outstanding_is(connection, 4))
            await leader.kill()
            await until(lambda: worker.term == 2)
            for item in running:
                await worker.end(item)
            waiting = await worker.items.take(2)
            assert [item.request.id for item in waiting] == ["critical", "low"]
            for item in waiting:
                await worker.end(item)
            await reader.ends_of(["running-1", "running-2", "critical", "low"])
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()


async def test_a_report_lost_by_a_dead_leader_is_not_run_again(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1") as worker:
        async with SchedulerProcess(settings) as leader:
            await reader.send("a")
            item = await worker.items.next()
            await leader.kill()
        await worker.end(item)
        async with scheduling(settings):
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()
            assert isinstance(await reader.end_of("a"), Finished)


async def test_worker_and_leader_dying_together_lose_no_token(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "dying") as dying:
        await reader.send("a")
        first = await dying.items.next()
        await dying.tell(first, [5, 6])
        await reader.events.next()
        await leader.kill()
    async with scheduling(settings), FakeWorker(settings, "heir") as heir:
        second = await heir.items.next()
        assert second.resume_token_ids == [5, 6]
        assert second.attempt > first.attempt


async def test_failures_are_counted_across_leaders(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    attempts = []
    async with FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        for failure in range(2):
            async with scheduling(settings):
                item = await worker.items.next()
                attempts.append(item.attempt)
                await worker.end(item, Outcome.RETURNED, EngineError(f"failure {failure}").body())
                await until(partial(_is_recorded, connection, failure + 1))
        async with scheduling(settings):
            item = await worker.items.next()
            attempts.append(item.attempt)
            await worker.end(item, Outcome.RETURNED, EngineError("failure 2").body())
            assert (await reader.end_of("a")).error.code == "attempts_exhausted"
        assert attempts == sorted(set(attempts))


async def test_attempts_grow_across_leaders_however_often_a_request_was_handed_back(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    attempts = []
    async with FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        for _ in range(3):
            async with scheduling(settings):
                for _ in range(4):
                    item = await worker.items.next()
                    attempts.append(item.attempt)
                    await worker.end(item, Outcome.RETURNED)
                item = await worker.items.next()
                attempts.append(item.attempt)
            worker.running.clear()  # the item is lost together with its leader
        assert attempts == sorted(set(attempts))


async def test_a_frozen_leader_that_wakes_up_stands_by(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as first, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("a")
        item = await worker.items.next()
        for i in range(20):
            await reader.send(f"r{i}")
        async with SchedulerProcess(settings):
            first.freeze()
            await until(lambda: worker.term == 2)
            first.thaw()
            worker.auto = True
            await worker.end(item)
            await reader.ends_of(["a", *(f"r{i}" for i in range(20))])
            items = await worker.items.take(20)
            assert [item.request.id for item in items] == [f"r{i}" for i in range(20)]
            assert {item.term for item in items} == {2}
            await until(lambda: queue_is_empty(connection))


async def test_only_one_of_three_schedulers_leads(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    ids = [f"r{i}" for i in range(50)]
    async with (
        FakeWorker(settings, "w1", auto=True) as worker,
        scheduling(settings),
        scheduling(settings),
        scheduling(settings),
    ):
        for request_id in ids:
            await reader.send(request_id)
        await reader.ends_of(ids)
        assert len({item.term for item in await worker.items.take(50)}) == 1
        assert worker.items.empty()


async def test_a_cancel_heard_while_nobody_leads_is_kept(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sagellm")
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1", capacity=1) as worker, SchedulerProcess(settings) as leader:
        await reader.send("running")
        item = await worker.items.next()
        await reader.send("queued")
        async with scheduling(settings):
            await until(lambda: "standing by" in caplog.text)
            await leader.kill()
            await reader.cancel("queued")
            await reader.end_of("queued")
            await worker.end(item)
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()


async def test_requests_survive_a_restart_of_the_broker(settings: Settings, tmp_path: Path) -> None:
    store = tmp_path / "durable"
    async with contextlib.AsyncExitStack() as servers, contextlib.AsyncExitStack() as stack:
        async with embedded_server(store, max_payload_bytes=MAX_PAYLOAD_BYTES) as server:
            at_server = {"nats_url": server.url, "nats_token": SecretStr(server.token), "storage": "file"}
            settings = settings.model_copy(update=at_server)
            connection = await stack.enter_async_context(connect(settings, "test"))
            await ensure_topology(connection.js, settings)
            reader = await FakeReader(connection).start()
            await stack.enter_async_context(scheduling(settings))
            worker = await stack.enter_async_context(FakeWorker(settings, "w1", capacity=1))
            await reader.send("running")
            item = await worker.items.next()
            await reader.send("queued")
        port = urlsplit(server.url).port or 0
        again = embedded_server(store, max_payload_bytes=MAX_PAYLOAD_BYTES, port=port, token=server.token)
        servers.push_async_exit(again)
        await again.__aenter__()
        await until(lambda: connection.connected and worker.connection.connected)
        await until(
            lambda: _has_stream(connection, subjects.WORK_STREAM)
        )  # was in memory: the scheduler makes it again
        await worker.subscribe()
        await worker.end(item)
        worker.auto = True
        await reader.ends_of(["running", "queued"])
        await until(lambda: queue_is_empty(connection))
        assert reader.held["running"] == []


async def test_the_lease_names_its_holder_and_term(settings: Settings, connection: Connection) -> None:
    async with scheduling(settings):
        bucket = await connection.js.key_value(subjects.LEASE_BUCKET)
        codec = Codec(Lease)

        async def named() -> bool:
            try:
                lease = codec.decode((await bucket.get("scheduler")).value or b"")
            except Exception:
                return False
            return lease.term == 1 and lease.holder.startswith("scheduler-")

        await until(named)


async def outstanding_is(connection: Connection, count: int) -> bool:
    return await outstanding(connection) == count


async def _is_recorded(connection: Connection, failures: int) -> bool:
    bucket = await connection.js.key_value(subjects.ATTEMPTS_BUCKET)
    try:
        return f'"failures":{failures}' in ((await bucket.get("request.a")).value or b"").decode()
    except KeyNotFoundError:
        return False


async def _has_stream(connection: Connection, name: str) -> bool:
    try:
        await connection.js.stream_info(name)
    except NotFoundError:
        return False
    return True
