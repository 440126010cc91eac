"""Every family answers what transformers answers, however the work is cut up."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.contract import GenerateRequest
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution import Executor, Span
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.model_runner import ModelRunner
from sagellm_schemas import SamplingParams

from .conftest import BLOCK, SavedModel, engine_of
from .tiny_models import TINY_MODELS, prompt_of

TOLERANCE = 1e-4


def compute(
    executor: Executor, token_ids: list[int], blocks: list[int], *ends: int, start: int = 0
) -> torch.Tensor:
    """Scores of every token from `start` on, computed in steps that end at `ends` and the last token."""
    found = []
    for end in (*ends, len(token_ids)):
        rows = end - start
        span = Span(0, rows, start, blocks)
        scores = executor.forward(token_ids[start:end], list(range(start, end)), [span], list(range(rows)))
        found.append(scores.logits.clone())
        start = end
    return torch.cat(found)


@torch.inference_mode()
def test_scores_of_a_prompt_are_those_of_transformers(saved: SavedModel, executor_name: str) -> None:
    prompt = prompt_of(saved.longest_prompt)
    executor = engine_of(saved, executor_name).runner.executor
    torch.testing.assert_close(
        compute(executor, prompt, list(range(30))), saved.logits(prompt), rtol=0, atol=TOLERANCE
    )


@torch.inference_mode()
def test_scores_do_not_depend_on_how_a_prompt_is_cut_up(saved: SavedModel, executor_name: str) -> None:
    prompt = prompt_of(saved.longest_prompt)
    executor = engine_of(saved, executor_name).runner.executor
    blocks = [(7 * number) % 31 for number in range(31)]
    chunked = compute(executor, prompt, blocks, 5, 6, 19, 30)
    torch.testing.assert_close(chunked, saved.logits(prompt), rtol=0, atol=TOLERANCE)
    decoded = compute(executor, prompt, blocks, *range(1, len(prompt)))
    torch.testing.assert_close(decoded, saved.logits(prompt), rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_scores_after_a_prefix_that_another_sequence_computed_are_the_same(
    saved: SavedModel, executor_name: str
) -> None:
    first = prompt_of(saved.longest_prompt)
    shared = 6 * BLOCK
    second = first[:shared] + prompt_of(9, seed=2)
    executor = engine_of(saved, executor_name).runner.executor
    compute(executor, first, list(range(40, 70)))
    after = compute(executor, second, [*range(40, 46), 1, 2, 3], shared + 3, start=shared)
    torch.testing.assert_close(after, saved.logits(second)[shared:], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_scores_of_prompts_and_decodes_in_one_step_are_those_of_each_alone(
    saved: SavedModel, executor_name: str
) -> None:
    prompts = [prompt_of(length, seed=length) for length in (saved.longest_prompt, 13, 30, 22)]
    tables = [list(range(30 * number, 30 * number + 30)) for number in range(4)]
    executor = engine_of(saved, executor_name).runner.executor
    starts = (len(prompts[0]) - 1, 12, 17, 0)
    for prompt, blocks, start in zip(prompts, tables, starts, strict=True):
        if start:
            compute(executor, prompt[:start], blocks)
    spans: list[Span] = []
    rows = 0
    for prompt, blocks, start in zip(prompts, tables, starts, strict=True):
        spans.append(Span(rows, len(prompt) - start, start, blocks))
        rows += len(prompt) - start
    token_ids = [token for prompt, start in zip(prompts, starts, strict=True) for token in prompt[start:]]
    positions = [at for span in spans for at in range(span.start, span.end)]
    last_rows = [span.row + span.num_tokens - 1 for span in spans]
    found = executor.forward(token_ids, positions, spans, last_rows)
    expected = torch.stack([saved.logits(prompt)[-1] for prompt in prompts])
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=TOLERANCE)


def test_greedy_answers_are_those_of_transformers_in_chunks_and_with_prefix_hits(
    saved: SavedModel, executor_name: str
) -> None:
    long = prompt_of(saved.longest_prompt)
    prompts = [long, prompt_of(5, seed=3), long[:22] + prompt_of(6, seed=4), long]
    engine = engine_of(saved, executor_name, max_batched_tokens=24, max_chunk_tokens=10)
    expected = [saved.answer(prompt, 14) for prompt in prompts]
    first = _answers(engine, prompts[:2])
    again = _answers(engine, prompts[2:])
    assert first + again == expected
    assert engine.stats().cached_tokens_total >= 20 + saved.longest_prompt // BLOCK * BLOCK - BLOCK


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
@torch.inference_mode()
def test_experts_in_one_tensor_are_those_in_many(name: str, tmp_path: Path) -> None:
    [tiny] = [tiny for tiny in TINY_MODELS if tiny.name == name]
    tiny.save(tmp_path / "many")
    shutil.copytree(tmp_path / "many", tmp_path / "one", ignore=shutil.ignore_patterns("*.safetensors"))
    tiny.make().save_pretrained(tmp_path / "one", save_original_format=False)
    many, one = (dict(open_checkpoint(str(tmp_path / folder)).tensors()) for folder in ("many", "one"))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[tensor], many[tensor]) for tensor in many)


@pytest.mark.parametrize("name", ["phi3", "mixtral", "qwen3-moe", "gemma2"])
@torch.inference_mode()
def test_rounded_to_8_bits_a_family_scores_much_the_same(name: str, executor_name: str, tmp_path: Path) -> None:
    [tiny] = [tiny for tiny in TINY_MODELS if tiny.name == name]
    wide = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_attention_heads": 4}
    wide |= {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": None,
        "original_max_position_embeddings": 160,
    }
    tiny = replace(tiny, options={**tiny.options, **wide}, long_factors=False)
    saved = SavedModel(tiny, tmp_path, tiny.save(tmp_path))
    prompt = prompt_of(saved.longest_prompt)
    executor = engine_of(saved, executor_name, quantization="int8").runner.executor
    found = compute(executor, prompt, list(range(30)))
    alike = torch.cosine_similarity(found, saved.logits(prompt))
    assert alike.median() > 0.99  # not the mean: a small error may choose another expert for a token


def test_everything_special_about_a_family_matters(saved: SavedModel) -> None:
    prompt = prompt_of(saved.longest_prompt)
    expected = saved.logits(prompt)
    for option, value in saved.tiny.without.items():
        checkpoint = open_checkpoint(str(saved.folder))
        assert changed(checkpoint.config, option, value) != checkpoint.config, option
        checkpoint.config = changed(checkpoint.config, option, value)  # type: ignore[misc]
        runner = ModelRunner(
            EngineConfig(
                model="", executor="torch", num_blocks=40, block_size=BLOCK, max_model_len=saved.tiny.max_model_len
            ),
            checkpoint,
        )
        with torch.inference_mode():
            found = compute(runner.executor, prompt, list(range(30)))
        assert (found - expected).abs().max() > 100 * TOLERANCE, option


def changed(config: ModelConfig, option: str, value: Any) -> ModelConfig:
    """`config` with one option changed, wherever it has it."""
    replace = msgspec.structs.replace
    if option in ("window", "rope"):
        return replace(config, layers=tuple(replace(layer, **{option: value}) for layer in config.layers))
    if option == "scaling":
        return replace(config, ropes=tuple(replace(rope, scaling=value) for rope in config.ropes))
    if option == "normalize":
        assert config.experts is not None
        return replace(config, experts=replace(config.experts, normalize=value))
    return replace(config, **{option: value})


def _answers(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    answers: dict[str, list[int]] = {}
    sampling = SamplingParams(max_tokens=14, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        answers[str(number)] = []
        engine.add_request(GenerateRequest(id=str(number), prompt_token_ids=prompt, sampling=sampling))
    while engine.has_work:
        for output in engine.step():
            answers[output.id] += output.token_ids
        engine.blocks.check_integrity(engine.scheduler.sequences)
    return list(answers.values())
