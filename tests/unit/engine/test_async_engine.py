"""`SageEngine` keeps the contract: one emit per step, nothing after an abort, errors stay where they belong."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sagellm_engine.async_engine import SageEngine
from sagellm_engine.contract import ServedModel, StepOutput
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_schemas import EngineError, InvalidRequest, ModelLoadError
from sagellm_schemas.prefix import block_hashes

from .conftest import prompts_of, request_of, run

Build = Callable[..., Engine]


class Reader:
    """Collects what is emitted, and lets a test wait for it."""

    def __init__(self) -> None:
        self.batches: list[list[StepOutput]] = []
        self._changed = asyncio.Event()

    def emit(self, outputs: list[StepOutput]) -> None:
        asyncio.get_running_loop()  # emit is called on the event loop
        self.batches.append(outputs)
        self._changed.set()

    def of(self, request_id: str) -> list[StepOutput]:
        return [output for batch in self.batches for output in batch if output.id == request_id]

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.of(request_id) for token in output.token_ids]

    def ended(self, request_id: str) -> bool:
        return any(o.finish_reason is not None or o.error is not None for o in self.of(request_id))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def started(engine_of: Build, **options: Any) -> AsyncIterator[tuple[SageEngine, Reader, ServedModel]]:
    engine = SageEngine(EngineConfig(model="unused"), build=lambda _: engine_of(**options))
    reader = Reader()
    served = await engine.start(reader.emit)
    try:
        yield engine, reader, served
    finally:
        await engine.close()


async def test_many_requests_at_once_get_the_answers_they_would_get_alone(engine_of: Build) -> None:
    prompts = prompts_of(1, 3, 17, 40, 5, 9, 12, 33)
    requests = [request_of(i, p) for i, p in enumerate(prompts)]
    expected = run(engine_of(), requests)
    async with started(engine_of) as (engine, reader, served):
        assert served.card.max_model_len == 160
        assert served.tokenizer_json
        for request in requests:
            engine.generate(request)
            await asyncio.sleep(0)
        await reader.until(lambda: all(reader.ended(r.id) for r in requests))
        for request in requests:
            assert reader.tokens(request.id) == expected[request.id].token_ids
            assert [o.offset for o in reader.of(request.id)] == list(range(24))
        assert engine.stats().output_tokens_total == 24 * 8
        assert engine.stats().kv_blocks_free == engine.stats().kv_blocks


async def test_a_step_emits_once_for_all_its_requests(engine_of: Build) -> None:
    async with started(engine_of) as (engine, reader, _):
        for i in range(4):
            engine.generate(request_of(i, [i]))
        await reader.until(lambda: all(reader.ended(str(i)) for i in range(4)))
        assert max(len(batch) for batch in reader.batches) == 4
        for batch in reader.batches:
            assert len({output.id for output in batch}) == len(batch)


async def test_nothing_is_emitted_after_an_abort_and_the_blocks_are_free(engine_of: Build) -> None:
    async with started(engine_of) as (engine, reader, _):
        for i in range(3):
            engine.generate(request_of(i, [i] * 8, max_tokens=100))
        await reader.until(lambda: len(reader.of("1")) >= 3)
        engine.abort("1")
        engine.abort("nobody")
        seen = len(reader.of("1"))
        await reader.until(lambda: reader.ended("0") and reader.ended("2"))
        assert len(reader.of("1")) == seen
        assert engine.stats().kv_blocks_free == engine.stats().kv_blocks


async def test_an_aborted_id_can_be_used_again_at_once(engine_of: Build) -> None:
    [first, second] = prompts_of(10, 11)
    expected = run(engine_of(), [request_of(0, second)])["0"].token_ids
    async with started(engine_of) as (engine, reader, _):
        for _ in range(5):
            engine.generate(request_of(0, first, max_tokens=100))
            await reader.until(lambda: len(reader.of("0")) >= 2)
            engine.abort("0")
            reader.batches.clear()
            engine.generate(request_of(0, second))
            await reader.until(lambda: reader.ended("0"))
            assert reader.tokens("0") == expected
            reader.batches.clear()


async def test_what_a_running_step_says_of_an_aborted_request_does_not_reach_the_next_of_that_id(
    engine_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first, second] = prompts_of(10, 11)
    expected = run(engine_of(), [request_of(0, second)])["0"].token_ids
    core = engine_of()
    plain = core.step
    in_step, go_on = threading.Event(), threading.Event()

    def held_step() -> list[StepOutput]:
        outputs = plain()
        in_step.set()
        go_on.wait(60)
        return outputs

    monkeypatch.setattr(core, "step", held_step)
    engine = SageEngine(EngineConfig(model="unused"), build=lambda _: core)
    reader = Reader()
    await engine.start(reader.emit)
    engine.generate(request_of(0, first))
    await asyncio.to_thread(in_step.wait, 60)
    engine.abort("0")
    engine.generate(request_of(0, second))
    go_on.set()
    await reader.until(lambda: reader.ended("0"))
    assert reader.tokens("0") == expected
    await engine.close()


async def test_a_request_that_cannot_run_is_refused_at_once(engine_of: Build) -> None:
    async with started(engine_of) as (engine, reader, _):
        with pytest.raises(InvalidRequest, match="token ids go from"):
            engine.generate(request_of(0, [10**6]))
        engine.generate(request_of(1, [1]))
        with pytest.raises(InvalidRequest, match="running already"):
            engine.generate(request_of(1, [1]))
        await reader.until(lambda: reader.ended("1"))


async def test_a_failing_step_ends_its_requests_and_the_engine_goes_on(
    engine_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = engine_of()
    engine = SageEngine(EngineConfig(model="unused"), build=lambda _: core)
    reader = Reader()
    await engine.start(reader.emit)
    plain = core.runner.run

    def fail_for_some(plan: Any) -> Any:
        if any(sequence.id.startswith("bad") for sequence in plan):
            raise RuntimeError("boom")
        return plain(plan)

    monkeypatch.setattr(core.runner, "run", fail_for_some)
    engine.generate(request_of("bad", [1, 2, 3]))
    await reader.until(lambda: reader.ended("bad"))
    assert isinstance(reader.of("bad")[-1].error, EngineError)
    engine.generate(request_of("good", [1, 2, 3]))
    await reader.until(lambda: reader.ended("good"))
    assert len(reader.tokens("good")) == 24
    assert engine.healthy()
    await engine.close()


async def test_a_model_that_cannot_be_loaded_says_so_at_start() -> None:
    def fail(_: EngineConfig) -> Engine:
        raise ModelLoadError("there is no model 'x'")

    engine = SageEngine(EngineConfig(model="x"), build=fail)
    with pytest.raises(ModelLoadError, match="there is no model"):
        await engine.start(Reader().emit)
    assert not engine.healthy()
    await engine.close()


async def test_when_the_thread_dies_every_request_fails_and_the_engine_is_unhealthy(
    engine_of: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = engine_of()
    engine = SageEngine(EngineConfig(model="unused"), build=lambda _: core)
    reader = Reader()
    await engine.start(reader.emit)

    def die() -> None:
        raise SystemError("broken beyond repair")

    monkeypatch.setattr(core, "stats", die)
    engine.generate(request_of(0, [1]))
    await reader.until(lambda: reader.ended("0"))
    await engine.close()
    assert not engine.healthy()
    with pytest.raises(EngineError, match="not running"):
        engine.generate(request_of(1, [1]))


async def test_closing_twice_and_in_the_middle_of_requests_is_fine(engine_of: Build) -> None:
    async with started(engine_of) as (engine, reader, _):
        engine.generate(request_of(0, [1], max_tokens=150))
        await reader.until(lambda: bool(reader.of("0")))
        await engine.close()
        assert not engine.healthy()
        await engine.close()


async def test_it_tells_what_its_prefix_cache_holds(engine_of: Build) -> None:
    async with started(engine_of) as (engine, reader, served):
        assert served.prefix_block_size == EngineConfig(model="unused").block_size
        assert engine.prefix_changes() == {}
        inner = engine._engine
        assert inner is not None
        for request_id in ("a", "b"):
            engine.generate(request_of(request_id, list(range(1, 40)), max_tokens=4))
            await reader.until(lambda request_id=request_id: reader.ended(request_id))
            told = engine.prefix_changes()
            expected = (
                set(block_hashes(list(range(1, 40)), inner.blocks.block_size)) if request_id == "a" else set()
            )
            assert {name for name, present in told.items() if present} >= expected
            assert all(told.values())
