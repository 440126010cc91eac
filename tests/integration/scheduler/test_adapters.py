"""A request with an adapter runs where its adapter is, and holds up nobody that can run elsewhere."""

import logging

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import Failed, Finished, ModelCard, encode, subjects

from .fakes import MODEL, FakeReader, FakeWorker, queue_is_empty, scheduling, until


async def refusal(reader: FakeReader, request_id: str) -> tuple[str, str, str | None]:
    end = await reader.end_of(request_id)
    assert isinstance(end, Failed)
    return end.error.code, end.error.message, end.error.param


async def test_requests_with_an_adapter_go_to_the_workers_that_have_it(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    ids = [f"r{number}" for number in range(6)]
    async with (
        scheduling(settings),
        FakeWorker(settings, "plain", capacity=8, auto=True) as plain,
        FakeWorker(settings, "adapted", capacity=8, auto=True, adapters=["poet", "clerk"]) as adapted,
    ):
        for number, request_id in enumerate(ids):
            await reader.send(request_id, adapter=("poet", "clerk")[number % 2])
        assert all(isinstance(end, Finished) for end in await reader.ends_of(ids))
        assert {item.request.adapter for item in await adapted.items.take(6)} == {"poet", "clerk"}
        assert plain.items.empty()
        await until(lambda: queue_is_empty(connection))


async def test_while_the_workers_with_its_adapter_are_full_others_go_before_it(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings),
        FakeWorker(settings, "adapted", capacity=1, adapters=["poet"]) as adapted,
    ):
        await reader.send("first", adapter="poet", can_be_preempted=False)
        first = await adapted.items.next()
        async with FakeWorker(settings, "plain", capacity=2) as plain:
            await reader.send("waits", adapter="poet")
            await reader.send("passes")
            passing = await plain.items.next()
            assert passing.request.id == "passes"
            assert adapted.items.empty()
            await adapted.end(first)
            waited = await adapted.items.next()
            assert waited.request.id == "waits"
            await plain.end(passing)
            await adapted.end(waited)
            assert all(isinstance(end, Finished) for end in await reader.ends_of(["first", "waits", "passes"]))


async def test_a_critical_request_makes_room_only_where_its_adapter_is(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with (
        scheduling(settings),
        FakeWorker(settings, "plain", capacity=1) as plain,
        FakeWorker(settings, "adapted", capacity=1, adapters=["poet"]) as adapted,
    ):
        await reader.send("victim", adapter="poet")
        await adapted.items.next()
        await reader.send("other")
        await plain.items.next()
        await reader.send("critical", adapter="poet", priority="critical")
        assert (await adapted.items.next()).request.id == "critical"
        assert "other" in plain.running


async def test_an_unknown_adapter_is_refused_with_the_names_there_are(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", adapters=["poet", "clerk"]):
        await reader.send("a", adapter="priest")
        assert await refusal(reader, "a") == (
            "model_not_found",
            f"the model '{MODEL}' has no adapter 'priest'; known: clerk, poet",
            "adapter",
        )
        await reader.send("b", model="poet")
        assert await refusal(reader, "b") == (
            "model_not_found",
            f"'poet' is an adapter: ask for model '{MODEL}' with adapter 'poet'",
            "model",
        )
        await until(lambda: queue_is_empty(connection))


async def test_an_adapter_that_no_worker_has_any_more_is_refused_at_once(
    settings: Settings, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sagellm.scheduler.leader")
    reader = await FakeReader(connection).start()
    models = await connection.js.key_value(subjects.MODELS_BUCKET)
    await models.put("poet", encode(ModelCard(name="poet", max_model_len=4096, parent=MODEL)))
    async with scheduling(settings), FakeWorker(settings, "w1", auto=True):
        await reader.send("a")
        assert isinstance(await reader.end_of("a"), Finished)  # now the worker is known
        await until(lambda: "leading in term" in caplog.text)  # what was queued before is never refused
        await reader.send("b", adapter="poet")
        assert await refusal(reader, "b") == (
            "unavailable",
            f"no instance of '{MODEL}' has the adapter 'poet' at present",
            "adapter",
        )
        await until(lambda: queue_is_empty(connection))
