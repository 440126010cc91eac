"""What happens when workers fail, hang, die, or lose messages: requests go on, with what their readers hold."""

import asyncio

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import (
    Cancelled,
    Codec,
    DeadLetter,
    Ended,
    EngineError,
    EngineState,
    Failed,
    Finished,
    InferenceRequest,
    InvalidRequest,
    Outcome,
    WorkReport,
    encode,
    subjects,
)

from .fakes import MODEL, FakeReader, FakeWorker, publish, queue_is_empty, scheduling, until

BROKEN = EngineError("the engine broke").body()


async def test_requests_of_a_dead_worker_go_on_at_another_with_the_tokens_the_reader_holds(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings):
        async with FakeWorker(settings, "dying") as dying:
            await reader.send("a")
            first = await dying.items.next()
            await dying.tell(first, [11, 12, 13])
            await reader.events.next()
        async with FakeWorker(settings, "heir") as heir:
            second = await heir.items.next()
            assert second.request == first.request
            assert second.resume_token_ids == [11, 12, 13]
            assert second.attempt > first.attempt
            assert reader.attempts["a"] == second.attempt  # so it drops what the dead one may still send
            await heir.end(second)
            assert isinstance(await reader.end_of("a"), Finished)
            await until(lambda: queue_is_empty(connection))


async def test_a_hung_worker_is_fenced_and_told_to_stop_when_it_comes_back(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "hung") as hung:
        await reader.send("a")
        await hung.items.next()
        hung.silent = hung.deaf = True
        async with FakeWorker(settings, "heir") as heir:
            item = await heir.items.next()
            hung.silent = hung.deaf = False
            while (order := await hung.controls.next()).preempt != ["a"]:
                assert not order.preempt
            await heir.end(item)
            assert isinstance(await reader.end_of("a"), Finished)


async def test_a_worker_that_only_lost_heartbeats_keeps_its_work(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings),
        FakeWorker(settings, "mute") as mute,
        FakeWorker(settings, "other", capacity=0),
    ):
        await reader.send("a")
        item = await mute.items.next()
        mute.silent = True
        await mute.controls.take(10)
        await mute.end(item)
        assert isinstance(await reader.end_of("a"), Finished)
        assert item.attempt == 1


async def test_a_work_item_that_was_lost_is_sent_again(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        lost = await worker.items.next()
        worker.running.clear()
        item = await worker.items.next()
        assert item.attempt == lost.attempt + 1
        await worker.end(item)
        assert isinstance(await reader.end_of("a"), Finished)


async def test_a_report_that_was_lost_is_made_up_for(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("a")
        await worker.end(await worker.items.next(), report=False)
        await reader.send("b")
        assert (await worker.items.next()).request.id == "b"


async def test_a_poison_request_is_dead_lettered_after_three_attempts_and_others_go_on(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    letters = await connection.nc.subscribe(subjects.ALL_DEADLETTERS)
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("poison")
        attempts = []
        for _ in range(3):
            item = await worker.items.next()
            attempts.append(item.attempt)
            await worker.end(item, Outcome.RETURNED, BROKEN)
        assert attempts == sorted(set(attempts))
        failed = await reader.end_of("poison")
        assert isinstance(failed, Failed)
        assert failed.error.code == "attempts_exhausted"
        assert "the engine broke" in failed.error.message
        letter = Codec(DeadLetter).decode((await letters.next_msg(5)).data)
        assert (letter.id, letter.model, letter.errors) == ("poison", MODEL, [BROKEN] * 3)
        assert letter.request == item.request
        await reader.send("healthy")
        await worker.end(await worker.items.next())
        assert isinstance(await reader.end_of("healthy"), Finished)
        await until(lambda: queue_is_empty(connection))
        await until(lambda: _only_the_term_is_kept(connection))


async def test_a_request_that_kills_its_workers_is_dead_lettered(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"max_attempts": 2})
    reader = await FakeReader(connection).start()
    async with scheduling(settings):
        for name in ("first", "second"):
            async with FakeWorker(settings, name) as worker:
                await reader.send("killer") if name == "first" else None
                await worker.items.next()
        failed = await reader.end_of("killer")
        assert isinstance(failed, Failed)
        assert "second" in failed.error.message


async def test_a_request_that_is_handed_back_has_not_failed(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        for _ in range(10):
            await worker.end(await worker.items.next(), Outcome.RETURNED)
        await worker.end(await worker.items.next())
        assert isinstance(await reader.end_of("a"), Finished)


async def test_a_worker_that_stops_hands_its_requests_over(settings: Settings, connection: Connection) -> None:
    settings = settings.model_copy(update={"max_attempts": 1})
    reader = await FakeReader(connection).start()
    async with scheduling(settings):
        async with FakeWorker(settings, "stopping") as stopping:
            await reader.send("a")
            await stopping.items.next()
            stopping.state = EngineState.STOPPED
            await stopping.heartbeat()
        async with FakeWorker(settings, "heir") as heir:
            await heir.end(await heir.items.next())
            assert isinstance(await reader.end_of("a"), Finished)


async def test_a_workers_final_error_ends_the_request_without_a_retry(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("bad")
        await worker.end(await worker.items.next(), Outcome.FAILED, InvalidRequest("token out of range").body())
        await until(lambda: queue_is_empty(connection))
        assert worker.items.empty()


async def test_a_request_whose_reader_has_gone_is_not_run_again(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("first")
        await worker.end(await worker.items.next())
        await reader.send("orphan", reply_to=subjects.replies("nobody"))
        await worker.end(await worker.items.next(), Outcome.RETURNED)
        await reader.send("unwanted")
        item = await worker.items.next()
        del reader.held["unwanted"]
        await worker.end(item, Outcome.RETURNED)
        await until(lambda: queue_is_empty(connection))
        assert worker.items.empty()


async def test_a_direct_clients_request_is_retried_without_asking_anybody(
    settings: Settings, connection: Connection
) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await publish(connection, InferenceRequest(model=MODEL, id="a", prompt="x", reply_to="client.inbox"))
        first = await worker.items.next()
        await worker.end(first, Outcome.RETURNED, BROKEN)
        second = await worker.items.next()
        assert second.attempt == first.attempt + 1
        assert second.resume_token_ids == []


async def test_a_stale_report_changes_nothing(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        first = await worker.items.next()
        await worker.end(first, Outcome.RETURNED)
        second = await worker.items.next()
        stale = Ended(id="a", attempt=first.attempt, outcome=Outcome.FINISHED)
        await connection.nc.publish(
            subjects.reports("w1"), encode(WorkReport(instance="w1", ended=[stale, stale]))
        )
        await connection.nc.publish(subjects.reports("w1"), b"\xc1 not a report")
        await worker.end(second, Outcome.RETURNED)
        assert (await worker.items.next()).attempt == second.attempt + 1


async def test_a_request_cancelled_while_its_worker_dies_ends_cancelled(
    settings: Settings, connection: Connection
) -> None:
    async with scheduling(settings):
        reader = await FakeReader(connection).start()
        async with FakeWorker(settings, "dying") as dying:
            await reader.send("a")
            await dying.items.next()
            await reader.cancel("a")
        assert isinstance(await reader.end_of("a"), Cancelled)
        await until(lambda: queue_is_empty(connection))


async def test_garbage_on_the_control_plane_disturbs_nobody(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", auto=True):
        for subject in (subjects.CANCEL, subjects.stats("x"), subjects.reports("x")):
            for garbage in (b"", b"{", b"[1]", b"\xff\xfe", b"null"):
                await connection.nc.publish(subject, garbage)
        await reader.send("a")
        assert isinstance(await reader.end_of("a"), Finished)


async def _only_the_term_is_kept(connection: Connection) -> bool:
    await asyncio.sleep(0)
    return (await connection.js.stream_info(f"KV_{subjects.ATTEMPTS_BUCKET}")).state.messages == 1
