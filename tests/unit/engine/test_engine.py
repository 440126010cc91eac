"""The engine answers what transformers answers, however the work is cut up."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from sagellm_engine.contract import GenerateRequest
from sagellm_engine.engine import Engine
from sagellm_engine.execution import Scores
from sagellm_engine.sequence import Sequence
from sagellm_schemas import (
    ContextLengthExceeded,
    EngineError,
    FinishReason,
    InvalidRequest,
    OutOfMemory,
    SamplingParams,
    SettingsError,
)

from .conftest import EOS, VOCABULARY, prompts_of, request_of, run

Build = Callable[..., Engine]
LENGTHS = (1, 3, 4, 17, 40, 71)


@pytest.fixture(scope="module")
def expected(reference: LlamaForCausalLM) -> list[list[int]]:
    """Greedy answers of transformers, one prompt at a time."""
    return [
        reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts_of(*LENGTHS)
    ]


def test_steps_are_paced_by_the_tokens_that_decodes_have_had(engine_of: Build) -> None:
    engine = engine_of()
    [prompt] = prompts_of(30)
    engine.add_request(msgspec.structs.replace(request_of(0, prompt), tbt_slo_ms=50.0))
    engine.step()
    first, [sequence] = time.perf_counter(), engine.scheduler.sequences
    engine.step()
    assert sequence.tbt_slo_s == 0.05
    assert sequence.token_s is not None
    assert first < sequence.token_s < time.perf_counter()
    stats = engine.stats()
    assert stats.chunk_tokens > 0
    assert stats.computed_tokens_total == 31


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="one batch"),
        pytest.param({"max_batched_tokens": 8}, id="a budget of 8 tokens"),
        pytest.param({"max_chunk_tokens": 5}, id="chunks of 5"),
        pytest.param({"enable_prefix_caching": False, "block_size": 7, "num_blocks": 60}, id="odd blocks"),
        pytest.param({"num_blocks": 40}, id="few blocks"),
        pytest.param({"max_num_seqs": 1}, id="one by one"),
    ],
)
def test_greedy_tokens_are_those_of_transformers(
    engine_of: Build, expected: list[list[int]], options: dict[str, Any]
) -> None:
    engine = engine_of(**options)
    answers = run(engine, [request_of(i, p) for i, p in enumerate(prompts_of(*LENGTHS))])
    assert [a.token_ids for a in answers.values()] == expected
    assert (engine.stats().preemptions_total > 0) == (options == {"num_blocks": 40})
    assert engine.blocks.num_free == engine.blocks.num_blocks


def test_greedy_tokens_are_the_same_from_the_prefix_cache(engine_of: Build, expected: list[list[int]]) -> None:
    engine = engine_of()
    prompts = prompts_of(*LENGTHS)
    run(engine, [request_of(i, p) for i, p in enumerate(prompts)])
    again = run(engine, [request_of(i, p) for i, p in enumerate(prompts)])
    assert [a.token_ids for a in again.values()] == expected
    usages = [a.last.usage for a in again.values()]
    assert [u.cached_tokens for u in usages if u] == [0, 0, 0, 16, 36, 68]
    assert engine.stats().cached_tokens_total == 120


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_p": 0.95, "seed": 5, "presence_penalty": 0.5}])
def test_an_answer_resumed_at_any_point_goes_on_as_if_undisturbed(
    engine_of: Build, sampling: dict[str, Any]
) -> None:
    [prompt] = prompts_of(17)
    engine = engine_of()
    whole = run(engine, [request_of(0, prompt, stop=["\x01\x02"], **sampling)])["0"]
    assert len(whole.token_ids) == 24
    for cut in range(25):
        resumed = run(engine, [request_of(0, prompt, whole.token_ids[:cut], stop=["\x01\x02"], **sampling)])["0"]
        assert resumed.token_ids == whole.token_ids
        assert resumed.text == "".join(whole.texts[cut:])
        assert resumed.last.usage is not None
        assert (resumed.last.usage.prompt_tokens, resumed.last.usage.completion_tokens) == (17, 24)
        assert resumed.last.finish_reason is FinishReason.LENGTH


def test_seeded_answers_are_the_same_alone_and_in_a_batch(engine_of: Build) -> None:
    prompts = prompts_of(*LENGTHS)
    requests = [request_of(i, p, temperature=1.0, seed=i, min_p=0.02) for i, p in enumerate(prompts)]
    together = run(engine_of(), requests)
    engine = engine_of()
    for request in requests:
        assert run(engine, [request])[request.id].token_ids == together[request.id].token_ids


def test_unseeded_answers_differ(engine_of: Build) -> None:
    [prompt] = prompts_of(5)
    answers = run(engine_of(), [request_of(i, prompt, temperature=1.0) for i in range(4)])
    assert len({tuple(a.token_ids) for a in answers.values()}) == 4


def test_logprobs_are_those_of_transformers(engine_of: Build, reference: LlamaForCausalLM) -> None:
    [prompt] = prompts_of(9)
    answer = run(engine_of(), [request_of(0, prompt, logprobs=3, max_tokens=4)])["0"]
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer.token_ids])).logits[0, 8:12]
    expected = logits.log_softmax(-1)
    positions = [p for output in answer.outputs for p in output.logprobs or []]
    for row, (token_id, position) in enumerate(zip(answer.token_ids, positions, strict=True)):
        assert position.chosen.token_id == token_id
        assert position.chosen.logprob == pytest.approx(float(expected[row, token_id]), abs=1e-4)
        assert [t.token_id for t in position.top] == expected[row].topk(3).indices.tolist()


def test_an_answer_ends_at_the_end_of_text_token(engine_of: Build) -> None:
    [prompt] = prompts_of(6)
    engine = engine_of()
    first = run(engine, [request_of(0, prompt, max_tokens=5)])["0"].token_ids
    stopped = run(engine, [request_of(0, prompt, stop_token_ids=[first[2]], max_tokens=5)])["0"]
    assert stopped.token_ids == first[: first.index(first[2]) + 1]
    assert stopped.last.finish_reason is FinishReason.STOP
    assert stopped.last.stop_reason == first[2]


def test_max_tokens_defaults_to_the_rest_of_the_context(engine_of: Build) -> None:
    [prompt] = prompts_of(150)
    answer = run(engine_of(), [request_of(0, prompt, max_tokens=None)])["0"]
    assert len(answer.token_ids) == 10
    assert answer.last.finish_reason is FinishReason.LENGTH


def test_a_resumed_answer_that_was_complete_ends_without_more_tokens(engine_of: Build) -> None:
    [prompt] = prompts_of(6)
    request = request_of(0, prompt, [65, EOS, 66], ignore_eos=False)
    answer = run(engine_of(), [request])["0"]
    assert answer.last.finish_reason is FinishReason.STOP
    assert answer.last.token_ids == []
    assert answer.text == ""
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prompt": [1] * 160}, ContextLengthExceeded, "160 tokens; this model's context of 160"),
        ({"prompt": [1] * 150, "max_tokens": 11}, ContextLengthExceeded, "max_tokens can be at most 10"),
        ({"prompt": []}, InvalidRequest, "prompt is empty"),
        ({"prompt": [1, VOCABULARY]}, InvalidRequest, "go from 0 to 263"),
        ({"prompt": [-1]}, InvalidRequest, "go from 0 to 263"),
        ({"resume": [999]}, InvalidRequest, "resume_token_ids has 999"),
        ({"temperature": float("nan")}, InvalidRequest, "temperature"),
    ],
)
def test_a_request_that_can_never_run_is_refused(
    engine_of: Build, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    engine = engine_of()
    with pytest.raises(error, match=words):
        engine.add_request(request_of(0, change.pop("prompt", [1, 2]), change.pop("resume", None), **change))
    assert not engine.has_work


def test_an_id_cannot_be_used_twice_at_once(engine_of: Build) -> None:
    engine = engine_of()
    engine.add_request(request_of(0, [1]))
    with pytest.raises(InvalidRequest, match="running already"):
        engine.add_request(request_of(0, [2]))


def test_an_aborted_request_leaves_nothing_behind(engine_of: Build, expected: list[list[int]]) -> None:
    engine = engine_of()
    prompts = prompts_of(*LENGTHS)
    for i, prompt in enumerate(prompts):
        engine.add_request(request_of(i, prompt))
    engine.step()
    for i in range(5):
        engine.abort(str(i))
    engine.abort("unknown")
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            assert output.id == "5"
            tokens += output.token_ids
    assert tokens == expected[5][-len(tokens) :]
    assert engine.blocks.num_free == engine.blocks.num_blocks


def test_a_step_that_fails_ends_its_requests_and_no_others(
    engine_of: Build, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(max_num_seqs=2, max_batched_tokens=64)
    prompts = prompts_of(*LENGTHS)
    for i in range(4):
        engine.add_request(request_of(i, prompts[i]))
    engine.step()

    def fail(plan: dict[Sequence, int]) -> None:
        raise RuntimeError("the device went away")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "run", fail)
        failed = engine.step()
    assert [(o.id, type(o.error)) for o in failed] == [("0", EngineError), ("1", EngineError)]
    assert "the device went away" in str(failed[0].error)
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            tokens.setdefault(output.id, []).extend(output.token_ids)
    assert tokens == {"2": expected[2], "3": expected[3]}
    engine.blocks.check_integrity([])


def test_scores_that_are_not_numbers_end_that_request_alone(
    engine_of: Build, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    prompts = prompts_of(*LENGTHS)
    engine.add_request(request_of(3, prompts[3]))
    engine.add_request(request_of(4, prompts[4]))
    executor = engine.runner.executor
    plain = executor.forward

    def poisoned(*step: Any) -> Scores:
        scores = plain(*step)
        return Scores(scores.logits, [-1, *scores.best[1:]])

    with monkeypatch.context() as patch:
        patch.setattr(executor, "forward", poisoned)
        outputs = {output.id: output for output in engine.step()}
    assert isinstance(outputs["3"].error, EngineError)
    tokens = list(outputs["4"].token_ids)
    while engine.has_work:
        tokens += [t for output in engine.step() for t in output.token_ids]
    assert tokens == expected[4]
    assert run(engine, [request_of(3, prompts[3])])["3"].token_ids == expected[3]


def test_an_error_in_decoding_text_ends_that_request_alone(
    engine_of: Build, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    prompts = prompts_of(*LENGTHS)
    for i in range(2):
        engine.add_request(request_of(i, prompts[i]))

    def fail(token_id: int) -> str:
        raise ValueError("no such token")

    monkeypatch.setattr(engine._requests["0"].answer, "push", fail)
    outputs = {output.id: output for output in engine.step()}
    assert isinstance(outputs["0"].error, EngineError)
    assert outputs["1"].token_ids == expected[1][:1]


def test_priorities_decide_who_is_first(engine_of: Build) -> None:
    engine = engine_of(max_num_seqs=1)
    sampling = SamplingParams(max_tokens=1, temperature=0)
    for number, priority in enumerate([4, 2, 0, 2]):
        engine.add_request(
            GenerateRequest(id=str(number), prompt_token_ids=[1], sampling=sampling, priority=priority)
        )
    order = [output.id for _ in range(4) for output in engine.step()]
    assert order == ["2", "1", "3", "0"]


def test_the_card_says_what_an_ingress_needs(engine_of: Build) -> None:
    card = engine_of(name="served").card
    assert (card.name, card.max_model_len, card.eos_token_ids, card.vocab_size) == (
        "served",
        160,
        [EOS],
        VOCABULARY,
    )
    assert card.tokenizer


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_blocks": 10}, OutOfMemory, "holds 40 tokens, but one request may need 160; lower max_model_len"),
        ({"num_blocks": 10**12}, OutOfMemory, "lower num_blocks"),
        ({"num_blocks": None, "kv_cache_bytes": 1000}, OutOfMemory, "raise kv_cache_bytes"),
        ({"max_model_len": 4096}, SettingsError, "context is 160"),
        ({"max_batched_tokens": 4}, SettingsError, "at least max_num_seqs"),
        ({"dtype": "int4"}, SettingsError, "dtype must be one of"),
        ({"block_size": 0}, SettingsError, "block_size must be at least 1"),
    ],
)
def test_settings_that_cannot_work_say_what_to_change(
    engine_of: Build, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine_of(**options)


def test_without_a_set_length_the_context_shrinks_to_what_the_cache_holds(engine_of: Build) -> None:
    assert engine_of(num_blocks=20, max_model_len=None).card.max_model_len == 80


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_weights_give_nearly_the_same_scores(
    engine_of: Build, reference: LlamaForCausalLM, dtype: str
) -> None:
    [prompt] = prompts_of(30)
    answer = run(engine_of(dtype=dtype), [request_of(0, prompt, logprobs=20, max_tokens=1)])["0"]
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    [position] = answer.last.logprobs or []
    tolerance = {"bfloat16": 0.3, "float16": 0.03}[dtype]
    for candidate in position.top:
        assert candidate.logprob == pytest.approx(float(expected[candidate.token_id]), abs=tolerance)
