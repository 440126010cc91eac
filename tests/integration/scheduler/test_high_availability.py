"""A takeover keeps the queue's order and the users' counters from its first dispatch on, without a replay."""

import asyncio

from nats.js.errors import KeyNotFoundError

from sagellm.broker import Connection
from sagellm.scheduler.attempts import TERM_KEY
from sagellm.scheduler.lease import LeaderLease
from sagellm.scheduler.main import run
from sagellm.scheduler.policy_state import PREFIX
from sagellm.scheduler.queue_copy import CONSUMER, QueueCopy
from sagellm.settings import Settings
from sagellm_schemas import Cancelled, Codec, Finished, InferenceRequest, Snapshot, subjects

from .fakes import MODEL, FakeReader, FakeWorker, SchedulerProcess, publish, queue_is_empty, scheduling, until


async def test_order_holds_from_the_first_dispatch_after_a_takeover(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running", can_be_preempted=False)
        item = await worker.items.next()
        count = 2000
        for start in range(0, count, 100):
            await asyncio.gather(*(reader.send(f"r{i}", priority=4 - i % 5) for i in range(start, start + 100)))
        async with scheduling(settings):
            await leader.kill()
            worker.auto = True
            await worker.end(item)
            items = await worker.items.take(count)
            assert {item.term for item in items} == {2}
            expected = sorted(range(count), key=lambda i: (4 - i % 5, i // 100))
            assert [item.request.priority for item in items] == [4 - i % 5 for i in expected]
            await until(lambda: queue_is_empty(connection))


async def test_readers_are_asked_only_about_requests_that_may_have_run(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "dying", capacity=1) as dying:
        await reader.send("ran")
        first = await dying.items.next()
        await dying.tell(first, [7])
        await reader.events.next()
        await reader.send("waited")
        await leader.kill()
    async with scheduling(settings), FakeWorker(settings, "heir") as heir:
        items = {item.request.id: item for item in await heir.items.take(2)}
        assert items["ran"].resume_token_ids == [7]
        assert items["ran"].attempt > first.attempt
        assert items["waited"].resume_token_ids == []
        query = await reader.queries.next()
        assert list(query.attempts) == ["ran"]
        assert reader.queries.empty()


async def test_after_the_work_stream_was_lost_every_reader_is_asked(
    settings: Settings, connection: Connection
) -> None:
    """It is in memory: after a restart of the broker nobody knows what had been dispatched before."""
    reader = await FakeReader(connection).start()
    await reader.send("a")
    config = (await connection.js.stream_info(subjects.WORK_STREAM)).config
    await connection.js.delete_stream(subjects.WORK_STREAM)
    await connection.js.add_stream(config)
    await reader.send("b")
    reader.held["a"] = [5]
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        items = {item.request.id: item for item in await worker.items.take(2)}
        assert items["a"].resume_token_ids == [5]
        assert list((await reader.queries.next()).attempts) == ["a"]


async def test_a_frozen_leader_that_wakes_up_dispatches_nothing_that_is_accepted(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    ids = [f"r{i}" for i in range(300)]
    async with SchedulerProcess(settings) as first, FakeWorker(settings, "w1", capacity=4, auto=True) as worker:
        await worker.connection.nc.flush()
        await reader.send("warm-up")
        await worker.items.next()
        async with SchedulerProcess(settings):
            for request_id in ids[:50]:
                await reader.send(request_id)
            first.freeze()
            for request_id in ids[50:]:
                await reader.send(request_id)
            await until(lambda: worker.term == 2)
            first.thaw()
            await reader.ends_of(ids)
            await until(lambda: queue_is_empty(connection))
            items = [worker.items.get_nowait() for _ in range(worker.items.qsize())]
            terms = [item.term for item in items]
            assert terms == sorted(terms)
            assert sorted(item.request.id for item in items) == sorted(ids)


async def test_users_counters_survive_their_leader(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"policy": "fair"})
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1", capacity=1) as worker:
        async with SchedulerProcess(settings) as leader:
            await reader.send("first", user_id="somebody")
            running = await worker.items.next()
            for i in range(3):
                await reader.send(f"greedy-{i}", user_id="greedy", prompt_token_ids=[1] * 500)
            for i in range(3):
                await reader.send(f"modest-{i}", user_id="modest", prompt_token_ids=[1] * 100)
            await worker.end(running)
            running = await worker.items.next()
            assert running.request.id == "greedy-0"
            await until(lambda: _counter_of(connection, "greedy"))
            await leader.kill()
        async with scheduling(settings):
            await until(lambda: worker.term == 2)
            worker.auto = True
            await worker.end(running)
            order = [item.request.id for item in await worker.items.take(5)]
            assert order == ["modest-0", "modest-1", "modest-2", "greedy-1", "greedy-2"]


async def test_what_changes_while_a_takeover_is_prepared_counts(
    settings: Settings, connection: Connection
) -> None:
    """The holder of the lease is silent, and the standby has taken everything in before the lease runs out."""
    settings = settings.model_copy(update={"lease_ttl_s": 3.0})
    await LeaderLease(await connection.js.key_value(subjects.LEASE_BUCKET), "silent", 3.0).acquire()
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1", capacity=1, auto=True) as worker:
        for i in range(5):
            await reader.send(f"r{i}", priority=4 - i)
        async with scheduling(settings):
            await until(lambda: _has_term(connection))
            await reader.cancel("r1")
            await connection.js.delete_msg(subjects.REQUESTS_STREAM, 5)
            await connection.nc.publish(f"$JS.ACK.{subjects.REQUESTS_STREAM}.{CONSUMER}.1.5.5.1.0", b"+ACK")
            assert worker.term == 0
            items = await worker.items.take(3)
            assert [item.request.id for item in items] == ["r3", "r2", "r0"]
            assert isinstance(await reader.end_of("r1"), Cancelled)
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()
            reply = await connection.nc.request(subjects.METRICS, b"")
            assert Codec(Snapshot).decode(reply.data).total_requests == 4


async def test_a_leader_that_was_only_slow_is_not_replaced(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"lease_ttl_s": 3.0})
    lease = LeaderLease(await connection.js.key_value(subjects.LEASE_BUCKET), "slow", 3.0)
    await lease.acquire()
    reader = await FakeReader(connection).start()
    await reader.send("a")
    async with FakeWorker(settings, "w1", auto=True) as worker, scheduling(settings):
        await until(lambda: _has_term(connection))
        renewed = asyncio.Event()
        keeping = asyncio.create_task(lease.keep(renewed.set))
        await renewed.wait()
        assert worker.term == 0
        keeping.cancel()
        assert (await worker.items.next()).request.id == "a"
        reply = await connection.nc.request(subjects.METRICS, b"")
        assert Codec(Snapshot).decode(reply.data).total_requests == 1


async def test_a_copy_of_the_queue_says_when_it_is_not_true(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    copy = QueueCopy(connection)
    await copy.begin()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=2) as worker:
        for i in range(5):
            await reader.send(f"r{i}")
        items = await worker.items.take(2)
        assert await copy.complete()
        await worker.end(items[0])
        await until(lambda: _holds(connection, 4))
        assert await copy.complete()
        assert len(copy) == 4
        await copy.end()
        await worker.end(items[1])
        await until(lambda: _holds(connection, 3))
        assert not await copy.complete()
        await copy.begin()
        assert await copy.complete()
        requests, _ = copy.take(0.0)
        assert [request.id for request in requests] == ["r2", "r3", "r4"]
        await copy.end()


async def test_what_ended_unheard_is_not_run_again(settings: Settings, connection: Connection) -> None:
    """A copy with a ghost is found out, and the leader waits for the queue itself."""
    reader = await FakeReader(connection).start()
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("ghost")
        ghost = await worker.items.next()
        await reader.send("waiting")
        stop = asyncio.Event()
        original = QueueCopy._on_ack
        try:
            QueueCopy._on_ack = lambda self, message: None  # type: ignore[method-assign]
            standby = asyncio.create_task(run(settings, stop))
            await asyncio.sleep(0)
            await worker.end(ghost)
            waiting = await worker.items.next()
            await leader.kill()
            await until(lambda: worker.term == 2)
            await worker.end(waiting)
            assert isinstance(await reader.end_of("waiting"), Finished)
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()
        finally:
            QueueCopy._on_ack = original  # type: ignore[method-assign]
            stop.set()
            await standby


async def test_a_client_cannot_place_its_request_elsewhere_in_the_copy(connection: Connection) -> None:
    copy = QueueCopy(connection)
    await publish(connection, InferenceRequest(id="first", model=MODEL, prompt="x"))
    await connection.js.publish(
        subjects.requests(MODEL),
        b'{"id":"second","model":"tiny","prompt":"x"}',
        headers={"Nats-Sequence": "1", "Nats-Time-Stamp": "nonsense"},
    )
    assert await copy.complete()
    requests, _ = copy.take(0.0)
    assert [(request.sequence, request.id) for request in requests] == [(1, "first"), (2, "second")]


async def _has_term(connection: Connection) -> bool:
    bucket = await connection.js.key_value(subjects.ATTEMPTS_BUCKET)
    try:
        return bool((await bucket.get(TERM_KEY)).value)
    except KeyNotFoundError:
        return False


async def _holds(connection: Connection, count: int) -> bool:
    return (await connection.js.stream_info(subjects.REQUESTS_STREAM)).state.messages == count


async def _counter_of(connection: Connection, user: str) -> bool:
    bucket = await connection.js.key_value(subjects.ATTEMPTS_BUCKET)
    keys = await bucket.keys() if (await bucket.status()).values else [TERM_KEY]
    if f"{PREFIX}fair" not in keys:
        return False
    state = Codec(dict[str, float]).decode((await bucket.get(f"{PREFIX}fair")).value or b"")
    return state.get(user, 0.0) >= 500
