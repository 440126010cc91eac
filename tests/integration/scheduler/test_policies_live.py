"""The policies as they serve: the queue's order, budgets and starts of prompts, over a real broker."""

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import Ended, Failed, Outcome, Usage, WorkReport, encode, subjects

from .fakes import FakeReader, FakeWorker, scheduling


def with_policy(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"policy": name})


async def test_slo_aware_lets_what_can_still_be_in_time_go_first(
    settings: Settings, connection: Connection
) -> None:
    settings = with_policy(settings, "slo_aware")
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        running = await worker.items.next()
        await reader.send("hopeless", ttft_slo_ms=0.01)
        await reader.send("relaxed", ttft_slo_ms=600_000.0)
        await reader.send("pressing", ttft_slo_ms=60_000.0)
        worker.auto = True
        await worker.end(running)
        order = [item.request.id for item in await worker.items.take(3)]
        assert order == ["pressing", "relaxed", "hopeless"]


async def test_fair_charges_what_was_answered(settings: Settings, connection: Connection) -> None:
    settings = with_policy(settings, "fair")
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("greedy-0", user_id="greedy")
        running = await worker.items.next()
        for i in (1, 2):
            await reader.send(f"greedy-{i}", user_id="greedy")
        await reader.send("modest-1", user_id="modest")
        await reader.send("modest-2", user_id="modest")
        worker.running.clear()
        ended = Ended(
            id="greedy-0", attempt=running.attempt, outcome=Outcome.FINISHED, usage=Usage(completion_tokens=1000)
        )
        await connection.nc.publish(subjects.reports("w1"), encode(WorkReport(instance="w1", ended=[ended])))
        worker.auto = True
        order = [item.request.user_id for item in await worker.items.take(4)]
        assert order == ["modest", "modest", "greedy", "greedy"]


async def test_a_budget_shortens_the_answer_or_refuses_with_what_it_would_cost(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", price_per_hour=3600.0) as worker:
        await reader.send("poor", cost_budget=1e-9)
        failed = await reader.end_of("poor")
        assert isinstance(failed, Failed)
        assert failed.error.code == "budget_exceeded"
        assert "would cost" in failed.error.message
        await reader.send("modest", cost_budget=0.5)
        item = await worker.items.next()
        assert item.tariff is not None
        assert item.request.sampling.max_tokens is not None
        assert item.tariff.cost(3, item.request.sampling.max_tokens) <= 0.5
        await worker.end(item)


async def test_prompts_are_sent_ahead_for_two_steps_only(settings: Settings, connection: Connection) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=9, max_batched_tokens=2) as worker:
        for i in range(4):
            await reader.send(f"r{i}")  # of three tokens each
        assert [item.request.id for item in await worker.items.take(2)] == ["r0", "r1"]
        await connection.nc.flush()
        assert worker.items.empty()
        await connection.nc.publish(
            subjects.reports("w1"), encode(WorkReport(instance="w1", ended=[], started=["r0", "r1"]))
        )
        assert [item.request.id for item in await worker.items.take(2)] == ["r2", "r3"]


async def test_slo_aware_asks_workers_to_keep_their_steps_short_and_fifo_does_not(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    for policy, paced in (("slo_aware", True), ("fifo", False)):
        async with (
            scheduling(settings.model_copy(update={"policy": policy})),
            FakeWorker(settings, f"w-{policy}") as worker,
        ):
            await reader.send(policy, tbt_slo_ms=100.0)
            item = await worker.items.next()
            assert item.paced is paced
            await worker.end(item)
            await reader.end_of(policy)
