"""The compiled kernels: a row has the same scores whatever it is computed with; and what happens without them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution import Executor, Span
from sagellm_engine.execution.native import KernelsUnavailableError, library

from .conftest import prompts_of, request_of, run

Build = Callable[..., Engine]


@pytest.fixture(autouse=True)
def _kernels() -> None:
    try:
        library.load_library()
    except KernelsUnavailableError as error:
        pytest.skip(str(error))


def scores(executor: Executor, tokens: list[int], start: int, blocks: list[int], row: int = 0) -> torch.Tensor:
    """Logits of the last of `tokens`, which are a sequence's positions from `start` on."""
    span = Span(row, len(tokens), start, blocks)
    positions = list(range(start, start + len(tokens)))
    return executor.forward(tokens, positions, [span], [len(tokens) - 1]).logits[0].clone()


@pytest.mark.parametrize("block_size", [4, 16, 32])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_a_row_has_the_same_bits_alone_in_a_batch_in_a_prompt_and_in_chunks(
    tiny: Path, block_size: int, dtype: str, quantization: str | None
) -> None:
    config = EngineConfig(
        model=str(tiny),
        executor="native",
        dtype=dtype,
        quantization=quantization,
        num_blocks=480 // block_size,
        block_size=block_size,
    )
    executor = Engine(config).runner.executor
    prompt, other = prompts_of(150, 30)
    per_sequence = 160 // block_size
    mine, others, again = (list(range(i * per_sequence, (i + 1) * per_sequence)) for i in range(3))
    with torch.inference_mode():
        whole = scores(executor, prompt, 0, mine)
        for start in range(0, 150, 37):
            chunked = scores(executor, prompt[start : start + 37], start, again)
        decoded = scores(executor, prompt[149:], 149, again)
        spans = [Span(0, 1, 149, again), Span(1, 30, 0, others)]
        together = executor.forward([prompt[149], *other], [149, *range(30)], spans, [0]).logits[0]
    assert torch.equal(whole, chunked)
    assert torch.equal(whole, decoded)
    assert torch.equal(whole, together)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(tiny: Path, threads: int) -> None:
    config: dict[str, Any] = {"model": str(tiny), "executor": "native", "num_blocks": 20}
    one, more = (Engine(EngineConfig(**config, num_threads=n)).runner.executor for n in (2, threads))
    [prompt] = prompts_of(100)
    blocks = list(range(7))
    with torch.inference_mode():
        assert torch.equal(scores(one, prompt, 0, blocks), scores(more, prompt, 0, blocks))


def test_without_a_compiler_the_engine_says_so_and_answers_all_the_same(
    engine_of: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    [prompt] = prompts_of(20)
    expected = run(engine_of(), [request_of(0, prompt)])["0"].token_ids
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        engine = engine_of()
    assert "no C++ compiler" in caplog.text
    assert run(engine, [request_of(0, prompt)])["0"].token_ids == expected
    with pytest.raises(KernelsUnavailableError, match="no C\\+\\+ compiler"):
        engine_of(executor="native")


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'unknown option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(KernelsUnavailableError, match="unknown option"):
        library.load_library()


def test_the_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGELLM_CACHE", str(tmp_path))
    library.load_library()
    [built] = tmp_path.glob("kernels/*/kernels.so")
    written = built.stat().st_mtime_ns
    library.load_library()
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("kernels/*/*")] == [written]


def test_a_block_size_that_the_cache_cannot_be_laid_out_for_is_refused(engine_of: Build) -> None:
    with pytest.raises(Exception, match="block_size must be at most 16 or a multiple"):
        engine_of(block_size=24)
