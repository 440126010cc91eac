"""From the durable queue to workers and back, in the policy's order and within the workers' credits."""

import asyncio

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import (
    Cancelled,
    Control,
    EngineState,
    Failed,
    Finished,
    InferenceRequest,
    RequestPriority,
    encode,
    subjects,
)

from .fakes import MODEL, FakeReader, FakeWorker, publish, queue_is_empty, scheduling, until


async def test_a_request_is_dispatched_and_leaves_the_queue_when_it_has_ended(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        item = await worker.items.next()
        assert item.request.id == "a"
        assert not await queue_is_empty(connection)
        await worker.end(item)
        assert isinstance(await reader.end_of("a"), Finished)
        await until(lambda: queue_is_empty(connection))


async def test_a_critical_request_jumps_the_queue(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running", can_be_preempted=False)
        running = await worker.items.next()
        await reader.send("background", priority=RequestPriority.BACKGROUND)
        await reader.send("normal-1")
        await reader.send("normal-2")
        await reader.send("critical", priority="critical")
        await worker.end(running)
        order = []
        for _ in range(4):
            item = await worker.items.next()
            order.append(item.request.id)
            await worker.end(item)
        assert order == ["critical", "normal-1", "normal-2", "background"]


async def test_with_fifo_arrival_is_all_that_counts(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"policy": "fifo"})
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1, auto=True) as worker:
        ids = [f"r{i}" for i in range(20)]
        for number, request_id in enumerate(ids):
            await reader.send(request_id, priority=4 - number % 5)
        assert [item.request.id for item in await worker.items.take(20)] == ids


async def test_a_worker_never_holds_more_than_its_credits(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=3) as worker:
        for i in range(10):
            await reader.send(f"r{i}")
        for _ in range(10):
            await until(lambda: worker.running)
            assert len(worker.running) <= 3
            await worker.end(await worker.items.next())
        await reader.ends_of([f"r{i}" for i in range(10)])


async def test_load_is_balanced_within_one_burst(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with (
        FakeWorker(settings, "big", capacity=6) as big,
        FakeWorker(settings, "small", capacity=3) as small,
    ):
        for i in range(6):
            await reader.send(f"r{i}")
        async with scheduling(settings):
            await until(lambda: len(big.running) + len(small.running) == 6)
            assert (len(big.running), len(small.running)) == (4, 2)


async def test_round_robin_takes_turns(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"routing": "round_robin"})
    reader = await FakeReader(connection).start()
    async with (
        FakeWorker(settings, "big", capacity=30) as big,
        FakeWorker(settings, "small", capacity=3) as small,
    ):
        for i in range(6):
            await reader.send(f"r{i}")
        async with scheduling(settings):
            await until(lambda: len(big.running) + len(small.running) == 6)
            assert (len(big.running), len(small.running)) == (3, 3)


async def test_a_draining_worker_gets_nothing_new(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings),
        FakeWorker(settings, "leaving") as leaving,
        FakeWorker(settings, "staying", capacity=30) as staying,
    ):
        leaving.state = EngineState.DRAINING
        await leaving.heartbeat()
        await reader.send("first")
        await staying.items.next()
        for i in range(20):
            await reader.send(f"r{i}")
        await staying.items.take(20)
        assert leaving.items.empty()


async def test_requests_of_a_known_model_wait_for_its_worker(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "before"):
        pass
    async with scheduling(settings):
        await reader.send("early")
        async with FakeWorker(settings, "after") as worker:
            assert (await worker.items.next()).request.id == "early"


async def test_another_models_backlog_holds_nobody_up(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "gone", model="other"):
        pass
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        for i in range(50):
            await reader.send(f"stuck-{i}", model="other", priority="critical")
        await reader.send("free")
        assert (await worker.items.next()).request.id == "free"


async def test_a_cancelled_request_in_the_queue_is_answered_and_never_runs(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        running = await worker.items.next()
        for request_id in ("a", "b", "c"):
            await reader.send(request_id)
        await reader.cancel("b")
        assert isinstance(await reader.end_of("b"), Cancelled)
        worker.auto = True
        await worker.end(running)
        assert [item.request.id for item in await worker.items.take(2)] == ["a", "c"]
        await until(lambda: queue_is_empty(connection))


async def test_a_cancel_that_overtakes_its_request_still_counts(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", auto=True) as worker:
        await reader.send("first")
        await reader.end_of("first")
        await reader.cancel("late")
        await connection.nc.flush()
        await reader.send("late")
        assert isinstance(await reader.end_of("late"), Cancelled)
        assert [item.request.id for item in await worker.items.take(1)] == ["first"]
        assert worker.items.empty()


async def test_the_same_id_again_is_the_same_request(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        item = await worker.items.next()
        again = encode(item.request)
        await connection.js.publish(subjects.requests(MODEL), again)  # without Nats-Msg-Id
        await reader.send("b")
        other = await worker.items.next()
        assert other.request.id == "b"
        await worker.end(item)
        await worker.end(other)
        await until(lambda: queue_is_empty(connection))
        assert worker.items.empty()


async def test_an_id_may_be_used_again_after_its_request_has_ended(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        first = await worker.items.next()
        await worker.end(first)
        await reader.end_of("a")
        await connection.js.publish(subjects.requests(MODEL), encode(first.request))
        assert (await worker.items.next()).attempt > first.attempt


async def test_an_id_in_use_by_another_reader_is_refused(settings: Settings, connection: Connection) -> None:
    first = await FakeReader(connection, "first").start()
    second = await FakeReader(connection, "second").start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await first.send("a")
        item = await worker.items.next()
        again = InferenceRequest(model=MODEL, id="a", prompt_token_ids=[4], reply_to=second.reply_to)
        await connection.js.publish(subjects.requests(MODEL), encode(again))
        failed = await second.end_of("a")
        assert isinstance(failed, Failed)
        assert failed.error.param == "id"
        await worker.end(item)
        assert isinstance(await first.end_of("a"), Finished)


async def test_a_request_without_id_seed_or_reply_is_completed(settings: Settings, connection: Connection) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await connection.js.publish(
            subjects.requests(MODEL),
            b'{"model": "tiny", "prompt": "hello"}',
            headers={subjects.REPLY_TO: "my.inbox"},
        )
        item = await worker.items.next()
        assert item.request.id == "nats-1"
        assert item.request.reply_to == "my.inbox"
        assert item.request.sampling.seed is not None
        assert item.request.arrival_time > 0
        assert item.reply_format == "application/json"


async def test_frames_come_in_the_format_of_the_request(settings: Settings, connection: Connection) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await publish(connection, InferenceRequest(model=MODEL, id="packed", prompt="x"))
        assert (await worker.items.next()).reply_format == "application/msgpack"


async def test_sigterm_hands_the_lease_over_at_once_and_running_work_goes_on(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"lease_ttl_s": 20.0})
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1") as worker, scheduling(settings) as first:
        await reader.send("a")
        item = await worker.items.next()
        await first.stop()
        async with scheduling(settings):
            await worker.end(item)
            await reader.end_of("a")
            await until(lambda: queue_is_empty(connection))
            assert worker.items.empty()


async def test_control_carries_the_term_before_any_work(settings: Settings, connection: Connection) -> None:
    async with FakeWorker(settings, "w1") as worker:
        async with scheduling(settings):
            assert (await worker.controls.next()) == Control(term=1)
        async with scheduling(settings):
            await until(lambda: worker.term == 2)


async def test_two_hundred_requests_through_two_workers_end_exactly_once(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    ids = [f"r{i}" for i in range(200)]
    async with (
        scheduling(settings),
        FakeWorker(settings, "w1", auto=True),
        FakeWorker(settings, "w2", auto=True),
    ):
        await asyncio.gather(*(reader.send(request_id) for request_id in ids))
        assert all(isinstance(event, Finished) for event in await reader.ends_of(ids))
        await until(lambda: queue_is_empty(connection))
