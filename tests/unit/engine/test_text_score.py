import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from sagellm.cli.bench.quality.measure import TEXT
from sagellm.cli.main import build
from sagellm_engine.engine import Engine
from sagellm_engine.text_score import TextScore, score_text

from .conftest import EOS, prompts_of


def _score(engine: Engine, token_ids: list[int], window_tokens: int, prefix: list[int]) -> TextScore:
    return score_text(engine.runner.executor, token_ids, prefix=prefix, window_tokens=window_tokens, block_size=4)


def _losses(reference: LlamaForCausalLM, token_ids: list[int]) -> list[float]:
    with torch.inference_mode():
        logits = reference(torch.tensor([token_ids])).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(token_ids[1:]), reduction="none").tolist()


@pytest.mark.parametrize("length", [2, 3, 130, 150])
def test_the_losses_of_a_text_that_fits_a_window_are_those_of_transformers(
    engine_of: Callable[..., Engine], reference: LlamaForCausalLM, length: int
) -> None:
    [token_ids] = prompts_of(length)
    score = _score(engine_of(), token_ids, 160, prefix=[])
    assert score.losses == pytest.approx(_losses(reference, token_ids), abs=1e-3)
    mean = sum(_losses(reference, token_ids)) / (length - 1)
    assert score.perplexity == pytest.approx(math.exp(mean), rel=1e-3)


@pytest.mark.parametrize("prefix", [[], [EOS]])
@pytest.mark.parametrize("length", [64, 65, 96, 97, 143])
def test_a_longer_text_is_scored_once_with_half_a_window_before_each_token(
    engine_of: Callable[..., Engine], reference: LlamaForCausalLM, prefix: list[int], length: int
) -> None:
    [token_ids] = prompts_of(length)
    window = 64 + len(prefix)
    expected = _losses(reference, [*prefix, *token_ids[:64]])
    for end in range(64, length, 32):
        last = token_ids[end - 32 : end + 32]
        expected += _losses(reference, [*prefix, *last])[31 + len(prefix) :]
    score = _score(engine_of(), token_ids, window, prefix)
    assert len(score.choices) == len(score.losses) == length - 1 + len(prefix)
    assert score.losses == pytest.approx(expected, abs=1e-3)


def test_bench_quality_compares_a_quantized_model_with_what_it_was(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("the quick brown fox jumps over the lazy dog, " * 5)
    arguments = f"bench quality --model {tiny} --quantization int4 --text {text} --window 64 --json -"
    result = CliRunner().invoke(build(), arguments.split())
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [each["weights"] for each in found["results"]] == ["int4", "float32"]
    ours, theirs = (each["perplexity"] for each in found["results"])
    assert ours != theirs
    assert found["comparison"]["perplexity_ratio"] == pytest.approx(ours / theirs)
    assert 0 < found["comparison"]["same_choice"] <= 1
    assert "int4 / float32" in result.stderr


def test_bench_quality_of_one_model_compares_nothing(tiny: Path, tmp_path: Path) -> None:
    arguments = f"bench quality --model {tiny} --window 64 --text {tmp_path / 'a.txt'}"
    (tmp_path / "a.txt").write_text("hello there")
    result = CliRunner().invoke(build(), arguments.split())
    assert result.exit_code == 0, result.output
    assert "float32" in result.stdout
    assert "±" not in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--text {missing}", "cannot be read as text"),
        ("--text {empty}", "no two tokens"),
        ("--window 400", "the model's context is 160 tokens"),
        ("--quantization int3", "QUANTIZATION"),
    ],
)
def test_bench_quality_refuses_what_it_cannot_do(tiny: Path, tmp_path: Path, options: str, message: str) -> None:
    (tmp_path / "empty").write_text("x")
    given = options.format(missing=tmp_path / "none", empty=tmp_path / "empty")
    result = CliRunner().invoke(build(), f"bench quality --model {tiny} {given}".split())
    assert message in str(result.exception)


def test_the_text_that_comes_with_us_has_prose_and_code_of_several_thousand_words() -> None:
    text = TEXT.read_text()
    assert len(text.split()) > 3000
    assert "```python" in text
