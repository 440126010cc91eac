"""The scheduler as a service: its lease, its connection, its metrics, its end."""

import asyncio
from functools import partial

import pytest
from nats.js.errors import NotFoundError

from sagellm.broker import Connection
from sagellm.scheduler import routing
from sagellm.scheduler.intake import CONSUMER
from sagellm.scheduler.lease import LeaderLease, LeaseLost
from sagellm.scheduler.main import run
from sagellm.settings import Settings
from sagellm_schemas import (
    JSON,
    Codec,
    MetricsQuery,
    Outcome,
    SageError,
    SettingsError,
    Snapshot,
    encode,
    subjects,
)

from .fakes import (
    FakeReader,
    FakeWorker,
    exposition,
    free_port,
    outstanding,
    queue_is_empty,
    scheduling,
    until,
)


async def test_a_lease_has_one_holder_and_can_be_handed_over(settings: Settings, connection: Connection) -> None:
    bucket = await connection.js.key_value(subjects.LEASE_BUCKET)
    first, second = (LeaderLease(bucket, name, settings.lease_ttl_s) for name in ("first", "second"))
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    keeping = asyncio.create_task(first.keep(lambda: None))
    await asyncio.wait([waiting], timeout=2 * settings.lease_ttl_s)
    assert first.valid
    assert not second.valid
    keeping.cancel()
    await first.release()
    await waiting
    assert second.valid
    assert not first.valid


async def test_a_holder_that_stops_renewing_is_invalid_before_another_is_valid(
    settings: Settings, connection: Connection
) -> None:
    bucket = await connection.js.key_value(subjects.LEASE_BUCKET)
    first, second = (LeaderLease(bucket, name, settings.lease_ttl_s) for name in ("first", "second"))
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    while not second.valid:
        assert not (first.valid and second.valid)
        await asyncio.sleep(0)
    assert not first.valid
    await waiting
    with pytest.raises(LeaseLost):
        await first.keep(lambda: None)


async def test_a_lost_consumer_is_made_again_and_nothing_runs_twice(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        item = await worker.items.next()
        await reader.send("queued")
        await until(partial(_is_deleted, connection))
        await reader.send("unheard")
        await worker.end(item)
        worker.auto = True
        await reader.ends_of(["running", "queued", "unheard"])
        await until(lambda: queue_is_empty(connection))
        assert worker.items.qsize() == 2


async def test_a_long_queue_is_replayed_in_order(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"lease_ttl_s": 3.0})
    reader = await FakeReader(connection).start()
    count = 1000
    async with FakeWorker(settings, "w1", capacity=1, auto=True) as worker:
        for start in range(0, count, 100):
            await asyncio.gather(*(reader.send(f"r{i}", priority=4 - i % 5) for i in range(start, start + 100)))
        async with scheduling(settings):
            items = await worker.items.take(count)
            priorities = [item.request.priority for item in items]
            assert priorities == sorted(priorities)
            await until(lambda: queue_is_empty(connection))


async def test_metrics_tell_what_happened(settings: Settings, connection: Connection) -> None:
    port = free_port()
    settings = settings.model_copy(update={"metrics_port": port})
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("a")
        await worker.end(await worker.items.next(), Outcome.RETURNED)
        await worker.items.next()
        await reader.send("waiting")

        async def shown() -> bool:
            text = await exposition(port)
            return all(
                line in text
                for line in (
                    "sagellm_scheduler_leader 1.0",
                    "sagellm_scheduler_dispatches_total 2.0",
                    "sagellm_scheduler_retries_total 1.0",
                    'sagellm_scheduler_queue_length{model="tiny"} 1.0',
                    "sagellm_scheduler_outstanding_requests 2.0",
                    "sagellm_scheduler_queue_wait_seconds_count 1.0",
                    'sagellm_scheduler_instances{model="tiny",state="ready"} 1.0',
                )
            )

        await until(shown)
        with pytest.raises(SettingsError, match="SAGELLM_METRICS_PORT"):
            await run(settings, asyncio.Event())


async def test_the_leader_answers_with_a_snapshot(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("a", slo_deadline_ms=60_000.0, priority="high")
        item = await worker.items.next()
        await reader.send("b", user_id="somebody")
        await worker.end(item)
        await worker.items.next()
        for query in (b"", encode(MetricsQuery()), encode(MetricsQuery(), JSON)):
            reply = await connection.nc.request(subjects.METRICS, query)
            snapshot = Codec(Snapshot).decode(reply.data)
            assert (snapshot.total_requests, snapshot.completed_requests, snapshot.running_requests) == (2, 1, 1)
            assert snapshot.slo_compliance_by_priority["HIGH"].rate == 1.0
            assert snapshot.latency.count == 1
            assert snapshot.queue_wait.count == 2
            assert snapshot.decision_us.keys() == {snapshot.policy}


async def test_an_unknown_policy_is_refused_at_the_start(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="fifo, priority"):
        await run(settings.model_copy(update={"policy": "best"}), asyncio.Event())


async def test_a_part_that_dies_stops_the_service_with_its_reason_in_the_log(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*_: object) -> None:
        raise ZeroDivisionError("a router of somebody else's")

    monkeypatch.setattr(routing.LoadBalanced, "choose", choose)
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1"):
        await reader.send("a")
        with pytest.raises(SageError, match="a router of somebody else's"):
            await run(settings, asyncio.Event())
    assert "dispatcher died" in caplog.text
    assert await outstanding(connection) == 1


async def _is_deleted(connection: Connection) -> bool:
    """Delete the queue's consumer; False while there is none yet."""
    try:
        return await connection.js.delete_consumer(subjects.REQUESTS_STREAM, CONSUMER)
    except NotFoundError:
        return False
