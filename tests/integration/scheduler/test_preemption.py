"""Preemption over a real broker: a CRITICAL request takes the place of another, which goes on where it was."""

import asyncio

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import Finished, Outcome, RequestPriority

from .fakes import (
    FakeReader,
    FakeWorker,
    SchedulerProcess,
    exposition,
    free_port,
    queue_is_empty,
    scheduling,
    until,
)


async def test_a_critical_request_takes_the_place_of_another_which_goes_on_with_its_tokens(
    settings: Settings, connection: Connection
) -> None:
    port = free_port()
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings.model_copy(update={"metrics_port": port})),
        FakeWorker(settings, "w1", capacity=1) as worker,
    ):
        await reader.send("victim")
        first = await worker.items.next()
        await worker.tell(first, [5, 6, 7])
        await reader.events.next()
        await reader.send("critical", priority="critical")
        critical = await worker.items.next()
        assert critical.request.id == "critical"
        await worker.end(critical)
        second = await worker.items.next()
        assert (second.request.id, second.resume_token_ids) == ("victim", [5, 6, 7])
        assert second.attempt > first.attempt
        await worker.end(second)
        for event in await reader.ends_of(["critical", "victim"]):
            assert isinstance(event, Finished)
        await until(lambda: queue_is_empty(connection))
        assert "sagellm_scheduler_preemptions_total 1.0" in await exposition(port)


@pytest.mark.parametrize("policy", ["fifo", "priority", "slo_aware", "fair", "adaptive", "cost_optimized"])
async def test_under_every_policy_a_critical_request_that_is_next_gets_the_freed_place(
    settings: Settings, connection: Connection, policy: str
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings.model_copy(update={"policy": policy})),
        FakeWorker(settings, "w1", capacity=2) as worker,
    ):
        await reader.send("low", priority="low")
        await reader.send("normal")
        await worker.items.take(2)
        await reader.send("critical", priority="critical")
        assert (await worker.items.next()).request.id == "critical"
        assert set(worker.running) == {"normal", "critical"}


async def test_under_fifo_whoever_came_first_goes_first_critical_or_not(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings.model_copy(update={"policy": "fifo"})),
        FakeWorker(settings, "w1", capacity=1) as worker,
    ):
        await reader.send("running")
        running = await worker.items.next()
        await reader.send("first")
        await reader.send("critical", priority="critical")
        await worker.end(running)
        assert (await worker.items.next()).request.id == "first"
        assert (await worker.items.next()).request.id == "critical"  # in the place of "first"
        assert set(worker.running) == {"critical"}


async def test_every_waiting_critical_request_gets_a_place_of_its_own(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=8) as worker:
        for i in range(8):
            await reader.send(f"r{i}", priority=RequestPriority.BACKGROUND)
        await worker.items.take(8)
        await asyncio.gather(*(reader.send(f"c{i}", priority="critical") for i in range(5)))
        items = await worker.items.take(5)
        assert {item.request.id for item in items} == {f"c{i}" for i in range(5)}
        worker.auto = True
        for item in items:
            await worker.end(item)
        again = await worker.items.take(5)
        assert len({item.request.id for item in again}) == 5
        assert {item.request.priority for item in again} == {RequestPriority.BACKGROUND}


async def test_nothing_is_preempted_that_may_not_be_or_when_it_is_turned_off(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    off = settings.model_copy(update={"preemption": "off"})
    async with FakeWorker(settings, "w1", capacity=1) as worker:
        for now, willing in ((settings, False), (off, True)):
            async with scheduling(now):
                await reader.send(f"running-{willing}", can_be_preempted=willing)
                running = await worker.items.next()
                await reader.send(f"critical-{willing}", priority="critical")
                await reader.send(f"probe-{willing}", model="unknown")
                await reader.end_of(f"probe-{willing}")  # so the scheduler has seen the critical one
                assert set(worker.running) == {f"running-{willing}"}
                await worker.end(running)
                item = await worker.items.next()
                assert item.request.id == f"critical-{willing}"
                await worker.end(item)
                await until(lambda: queue_is_empty(connection))
        orders = [worker.controls.get_nowait() for _ in range(worker.controls.qsize())]
        assert not [order for order in orders if order.preempt]


async def test_a_preempted_request_waits_in_its_old_place(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings.model_copy(update={"policy": "priority"})),
        FakeWorker(settings, "w1", capacity=1) as worker,
    ):
        await reader.send("victim")
        await worker.items.next()
        await reader.send("later")
        await reader.send("critical", priority="critical")
        critical = await worker.items.next()
        assert critical.request.id == "critical"
        query = await reader.queries.next()
        assert list(query.attempts) == ["victim"]
        await reader.send("probe", model="unknown")
        await reader.end_of("probe")  # so the scheduler has heard what the reader holds
        worker.auto = True
        await worker.end(critical)
        assert [item.request.id for item in await worker.items.take(2)] == ["victim", "later"]


@pytest.mark.parametrize("when", ["before the victim is back", "after it is back"])
async def test_a_change_of_leader_loses_neither_the_victim_nor_the_critical_request(
    settings: Settings, connection: Connection, when: str
) -> None:
    reader = await FakeReader(connection).start()
    async with FakeWorker(settings, "w1", capacity=1) as worker, SchedulerProcess(settings) as leader:
        await reader.send("victim")
        first = await worker.items.next()
        await worker.tell(first, [5, 6])
        await reader.events.next()
        if when.startswith("before"):
            worker.hands_back = False
            await reader.send("critical", priority="critical")
            while (order := await worker.controls.next()).preempt != ["victim"]:
                pass
            await leader.kill()
            await worker.end(first, Outcome.RETURNED)  # nobody hears it
            worker.hands_back = True
        else:
            await reader.send("critical", priority="critical")
            await worker.items.next()
            await leader.kill()
        async with scheduling(settings):
            await until(lambda: worker.term == 2)
            order = []
            worker.auto = True
            for request_id in list(worker.running):
                await worker.end(worker.item(request_id))
            for event in await reader.ends_of(["critical", "victim"]):
                assert isinstance(event, Finished)
            while not worker.items.empty():
                order.append(worker.items.get_nowait())
            resumed = [item for item in order if item.request.id == "victim"]
            assert [item.resume_token_ids for item in resumed] == [[5, 6]]
            assert resumed[0].attempt > first.attempt
            await until(lambda: queue_is_empty(connection))
