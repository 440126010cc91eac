"""Admission over a real broker: who is refused, what they are told, and that nothing admitted ever is."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import Ended, Failed, Finished, Outcome, SamplingParams, Usage, WorkReport, encode, subjects

from .fakes import (
    MODEL,
    FakeReader,
    FakeWorker,
    SchedulerProcess,
    exposition,
    free_port,
    outstanding,
    queue_is_empty,
    scheduling,
    until,
)

Bounded = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture
def bounded(settings: Settings, caplog: pytest.LogCaptureFixture) -> Bounded:
    """A scheduler with these bounds, which leads and has seen the whole queue: from then on it refuses."""
    caplog.set_level(logging.INFO, logger="sagellm.scheduler.leader")

    @contextlib.asynccontextmanager
    async def leading(**bounds: object) -> AsyncIterator[None]:
        async with scheduling(settings.model_copy(update=bounds)):
            await until(lambda: "leading in term" in caplog.text)
            yield

    return leading


async def refusal(reader: FakeReader, request_id: str) -> Failed:
    """The answer of a request that must have been refused, with a time to come again."""
    event = await reader.end_of(request_id)
    assert isinstance(event, Failed), event
    assert event.error.code in ("queue_full", "rate_limit_exceeded")
    assert event.error.retry_after_s is not None
    assert event.error.retry_after_s > 0
    return event


async def test_a_model_with_a_full_queue_refuses_and_others_do_not(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        bounded(max_queued_per_model=2),
        FakeWorker(settings, "w1", capacity=1) as worker,
        FakeWorker(settings, "w2", model="other", capacity=0),
    ):
        await reader.send("running")
        running = await worker.items.next()
        for request_id in ("a", "b", "refused"):
            await reader.send(request_id)
        assert "too many requests wait" in (await refusal(reader, "refused")).error.message
        await reader.send("at-other", model="other")
        await until(lambda: outstanding_is(connection, 4))
        await worker.end(running)
        item = await worker.items.next()
        assert item.request.id == "a"
        await reader.send("fits-again")
        await reader.cancel("at-other")
        worker.auto = True
        await worker.end(item)
        for event in await reader.ends_of(["running", "a", "b", "fits-again"]):
            assert isinstance(event, Finished)
        await until(lambda: queue_is_empty(connection))


async def test_a_user_with_too_many_waiting_is_refused_and_others_are_not(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        bounded(max_queued_per_user=2),
        FakeWorker(settings, "w1", capacity=1) as worker,
    ):
        await reader.send("running", user_id="ann")
        running = await worker.items.next()
        for request_id in ("a", "b", "refused"):
            await reader.send(request_id, user_id="ann")
        assert "ann" in (await refusal(reader, "refused")).error.message
        await reader.send("bobs", user_id="bob")
        worker.auto = True
        await worker.end(running)
        for event in await reader.ends_of(["running", "a", "b", "bobs"]):
            assert isinstance(event, Finished)
        await until(lambda: queue_is_empty(connection))


async def test_a_burst_that_can_run_at_once_is_not_refused_for_waiting(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        bounded(max_queued_per_model=1, max_queued_per_user=1),
        FakeWorker(settings, "w1", capacity=300) as worker,
    ):
        await reader.send("first")
        await worker.items.next()
        ids = [f"r{i}" for i in range(200)]
        await asyncio.gather(*(reader.send(request_id) for request_id in ids))
        items = await worker.items.take(200)
        assert sorted(item.request.id for item in items) == sorted(ids)


async def test_requests_a_minute_are_bounded_for_each_user(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        bounded(user_requests_per_minute=2),
        FakeWorker(settings, "w1", auto=True),
    ):
        for request_id in ("a", "b", "refused"):
            await reader.send(request_id, user_id="ann")
        await reader.send("bobs", user_id="bob")
        for event in await reader.ends_of(["a", "b", "bobs"]):
            assert isinstance(event, Finished)
        refused = await refusal(reader, "refused")
        assert refused.error.code == "rate_limit_exceeded"
        assert 20 < (refused.error.retry_after_s or 0) <= 30
        await until(lambda: queue_is_empty(connection))


async def test_tokens_that_an_answer_did_not_take_may_be_asked_for_again(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    asked = {"user_id": "ann", "prompt_token_ids": [1] * 10}
    async with (
        bounded(user_tokens_per_minute=150),
        FakeWorker(settings, "w1") as worker,
    ):
        await reader.send("a", sampling=SamplingParams(max_tokens=90, seed=1), **asked)
        item = await worker.items.next()
        await reader.send("refused", sampling=SamplingParams(max_tokens=90, seed=1), **asked)
        assert "100" in (await refusal(reader, "refused")).error.message
        usage = Usage(prompt_tokens=10, completion_tokens=5)
        ended = Ended(id="a", attempt=item.attempt, outcome=Outcome.FINISHED, usage=usage)
        worker.running.clear()
        await connection.nc.publish(subjects.reports("w1"), encode(WorkReport(instance="w1", ended=[ended])))
        await until(lambda: queue_is_empty(connection))
        await reader.send("b", sampling=SamplingParams(max_tokens=90, seed=1), **asked)
        assert (await worker.items.next()).request.id == "b"


async def test_a_json_client_is_told_when_to_come_again(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    answers = await connection.nc.subscribe("answers.of.mine")
    async with bounded(model_requests_per_minute=1), FakeWorker(settings, "w1") as worker:
        for request_id in ("a", "refused"):
            body = {"model": MODEL, "prompt": "x", "id": request_id, "reply_to": "answers.of.mine"}
            await connection.js.publish(subjects.requests(MODEL), json.dumps(body).encode())
        assert (await worker.items.next()).request.id == "a"
        (event,) = json.loads((await answers.next_msg(timeout=10)).data)["events"]
        assert (event["type"], event["id"]) == ("failed", "refused")
        assert event["error"]["code"] == "rate_limit_exceeded"
        assert 0 < event["error"]["retry_after_s"] <= 60


async def test_refusals_are_counted_by_their_bound(
    settings: Settings, connection: Connection, bounded: Bounded
) -> None:
    reader = await FakeReader(connection).start()
    port = free_port()
    async with (
        bounded(model_requests_per_minute=2, user_requests_per_minute=1, metrics_port=port),
        FakeWorker(settings, "w1", auto=True),
    ):
        await reader.send("a", user_id="ann")
        await reader.send("b", user_id="ann")
        await refusal(reader, "b")
        await reader.send("c", user_id="bob")
        await reader.send("d", user_id="eve")
        await refusal(reader, "d")
        text = await exposition(port)
        assert 'sagellm_scheduler_refusals_total{reason="user_requests"} 1.0' in text
        assert 'sagellm_scheduler_refusals_total{reason="model_requests"} 1.0' in text


async def test_what_a_leader_admitted_the_next_one_serves_whatever_its_bounds(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    admitted = [f"r{i}" for i in range(60)]
    tight = settings.model_copy(update={"max_queued_per_model": 5, "max_queued_per_user": 5})
    async with FakeWorker(settings, "w1", capacity=1) as worker:
        async with SchedulerProcess(settings) as leader:
            await reader.send("running")
            running = await worker.items.next()
            await asyncio.gather(*(reader.send(request_id, user_id="ann") for request_id in admitted))
            await leader.kill()
        async with scheduling(tight):
            await until(lambda: worker.term == 2)
            late = 0
            while not any(i.startswith("late") for i in reader.terminal):  # the bounds hold again
                late += 1
                await reader.send(f"late-{late}", user_id="eve")
                await connection.nc.flush()
            assert not [i for i in admitted if i in reader.terminal]
            worker.auto = True
            await worker.end(running)
            for event in await reader.ends_of(admitted):
                assert isinstance(event, Finished)
            for event in await reader.ends_of([f"late-{i + 1}" for i in range(late)]):
                assert isinstance(event, Finished) or event.error.code == "queue_full"
            await until(lambda: queue_is_empty(connection))


async def test_a_leader_that_was_frozen_refuses_nobody_whom_its_successor_serves(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    tight = settings.model_copy(update={"max_queued_per_model": 1})
    ids = [f"r{i}" for i in range(30)]
    async with SchedulerProcess(tight) as first, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        running = await worker.items.next()
        late = 0
        while "late" not in "".join(reader.terminal):  # its bounds hold
            late += 1
            await reader.send(f"late-{late}")
            await connection.nc.flush()
        async with SchedulerProcess(settings):
            first.freeze()
            for request_id in ids:
                await reader.send(request_id)
            await until(lambda: worker.term == 2)
            first.thaw()
            worker.auto = True
            await worker.end(running)
            for event in await reader.ends_of(ids):
                assert isinstance(event, Finished), event


async def outstanding_is(connection: Connection, count: int) -> bool:
    return await outstanding(connection) == count
