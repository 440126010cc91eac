"""A draft model changes the speed of answers, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

from sagellm_engine.engine import Engine
from sagellm_schemas import ModelLoadError, SettingsError, SpeculationStats

from .conftest import EOS, byte_tokenizer, prompts_of, request_of, run

Build = Callable[..., Engine]
LENGTHS = (1, 3, 17, 40, 71)


def save_draft(folder: Path, *, vocab_size: int = 264, context: int = 160, extra_token: str = "") -> Path:
    """A model of one layer that is wrong most of the time."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=EOS,
        dtype="float32",
    )
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    if extra_token:
        tokenizer.add_special_tokens([AddedToken(extra_token, special=True)])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    return folder


def pay_no_heed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft whether it pays or not: times of so small a model say nothing."""
    worth = engine._speculator._worth  # type: ignore[union-attr]
    monkeypatch.setattr(type(worth), "known", property(lambda self: True))
    monkeypatch.setattr(worth, "could_pay", lambda load: True)
    monkeypatch.setattr(worth, "counts", lambda load, offers: {s: most for s, (_, most) in offers.items()})


@pytest.fixture(scope="module")
def plain(engine_of: Build) -> dict[str, list[int]]:
    return answers_of(engine_of())


def answers_of(engine: Engine, **sampling: Any) -> dict[str, list[int]]:
    answers = run(engine, [request_of(i, p, **sampling) for i, p in enumerate(prompts_of(*LENGTHS))])
    return {number: answer.token_ids for number, answer in answers.items()}


@pytest.mark.parametrize("options", [{}, {"num_blocks": 42}, {"max_batched_tokens": 12}, {"num_draft_tokens": 1}])
def test_a_model_that_drafts_for_itself_is_always_right(
    engine_of: Build,
    tiny: Path,
    plain: dict[str, list[int]],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(speculation="draft", draft_model=str(tiny), **options)
    pay_no_heed(engine, monkeypatch)
    assert answers_of(engine) == plain
    first = engine.stats().speculation
    assert first is not None
    assert first.drafted_tokens_total == first.accepted_tokens_total > 0
    assert answers_of(engine) == plain  # from the prefix caches of both
    again = engine.stats().speculation
    assert again is not None
    assert again.drafted_tokens_total == again.accepted_tokens_total > first.accepted_tokens_total
    assert again.acceptance_rate == 1.0


def test_sampled_answers_are_the_same_with_a_draft_model(
    engine_of: Build, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = {"temperature": 0.5, "seed": 4}
    engine = engine_of(speculation="draft", draft_model=str(tiny))
    pay_no_heed(engine, monkeypatch)
    assert answers_of(engine, **sampling) == answers_of(engine_of(), **sampling)
    stats = engine.stats().speculation
    assert stats is not None
    assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total


@pytest.mark.parametrize("shape", [{}, {"vocab_size": 257}, {"vocab_size": 300}, {"context": 40}])
def test_a_draft_model_that_is_wrong_changes_no_answer(
    engine_of: Build,
    tmp_path: Path,
    plain: dict[str, list[int]],
    shape: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draft = save_draft(tmp_path / "draft", **shape)
    engine = engine_of(speculation="draft", draft_model=str(draft))
    pay_no_heed(engine, monkeypatch)
    assert answers_of(engine) == plain
    stats = engine.stats().speculation
    assert stats is not None
    assert stats.accepted_tokens_total < stats.drafted_tokens_total


def test_a_prompt_that_another_request_began_with_is_not_drafted_over_again(
    engine_of: Build, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [prompt] = prompts_of(100)
    engine = engine_of(speculation="draft", draft_model=str(tiny))
    pay_no_heed(engine, monkeypatch)
    executor = engine._speculator._proposer._executor  # type: ignore[union-attr]
    rows: list[int] = []
    forward = executor.forward

    def counting(token_ids: list[int], *rest: Any) -> torch.Tensor:
        rows.append(len(token_ids))
        return forward(token_ids, *rest)

    monkeypatch.setattr(executor, "forward", counting)
    run(engine, [request_of(0, prompt)])
    assert max(rows) >= 100
    rows.clear()
    run(engine, [request_of(1, prompt)])
    assert max(rows) < 10


def test_an_error_of_the_draft_model_ends_no_answer(
    engine_of: Build, tiny: Path, plain: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(speculation="draft", draft_model=str(tiny))
    pay_no_heed(engine, monkeypatch)

    def fail(*arguments: Any) -> torch.Tensor:
        raise RuntimeError("the draft model went away")

    monkeypatch.setattr(engine._speculator._proposer._executor, "forward", fail)  # type: ignore[union-attr]
    assert answers_of(engine) == plain
    assert engine.stats().speculation == SpeculationStats()


def test_a_draft_model_of_another_vocabulary_is_refused(engine_of: Build, tmp_path: Path) -> None:
    draft = save_draft(tmp_path / "other", extra_token="<|pause|>")
    with pytest.raises(ModelLoadError, match=r"another vocabulary.*token 257 is '<\|pause\|>' to one and None"):
        engine_of(speculation="draft", draft_model=str(draft))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speculation": "medusa"}, "speculation must be one of ngram, draft"),
        ({"speculation": "draft"}, "needs draft_model"),
        ({"speculation": "ngram", "draft_model": "x"}, "would have no effect"),
        ({"num_draft_tokens": 65}, "at most 64"),
        ({"num_draft_tokens": 0}, "at least 1"),
    ],
)
def test_settings_of_speculation_that_cannot_work_say_what_to_change(
    engine_of: Build, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        engine_of(**options)
