"""With speculation every answer is the very one it is without, whatever is guessed and however work is cut up."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sagellm_engine.engine import Engine
from sagellm_schemas import FinishReason

from .conftest import Answered, prompts_of, request_of, run
from .guessing import Guesses

Build = Callable[..., Engine]
LENGTHS = (1, 3, 17, 40, 71)

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seeded": {"temperature": 0.9, "seed": 5},
    "filtered": {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "seed": 6},
    "penalties": {"presence_penalty": 0.8, "frequency_penalty": 0.6, "repetition_penalty": 1.2},
    "penalties, seeded": {"temperature": 1.0, "frequency_penalty": 1.0, "seed": 7},
    "logprobs": {"temperature": 0.7, "seed": 8, "logprobs": 3},
    "min_tokens": {"min_tokens": 9, "stop_token_ids": list(range(0, 256, 3)), "temperature": 1.0, "seed": 9},
    "a stop string": {"stop": ["e", "\x07", "a"], "temperature": 1.0, "seed": 10},
    "few tokens": {"max_tokens": 2},
    "one token": {"max_tokens": 1},
}

SHAPES: dict[str, dict[str, Any]] = {
    "one batch": {},
    "a budget of 12 tokens": {"max_batched_tokens": 12},
    "chunks of 5": {"max_chunk_tokens": 5},
    "few blocks": {"num_blocks": 42},
    "no prefix cache": {"enable_prefix_caching": False, "block_size": 7, "num_blocks": 60},
    "one by one": {"max_num_seqs": 1},
}


def said(answer: Answered) -> tuple[object, ...]:
    """All that a reader gets, however it was cut into outputs."""
    logprobs = [position for output in answer.outputs for position in output.logprobs or []]
    return (
        answer.token_ids,
        answer.text,
        [(p.chosen.token_id, [t.token_id for t in p.top]) for p in logprobs],
        [round(p.chosen.logprob, 3) for p in logprobs],
        answer.last.finish_reason,
        answer.last.stop_reason,
    )


def answers_of(engine: Engine, sampling: dict[str, Any]) -> dict[str, Answered]:
    return run(engine, [request_of(i, p, **sampling) for i, p in enumerate(prompts_of(*LENGTHS))])


def guessing(engine: Engine, guesses: Guesses) -> Engine:
    engine.scheduler._drafter = guesses
    return engine


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_whatever_is_sampled(engine_of: Build, sampling: dict[str, Any]) -> None:
    plain = answers_of(engine_of(), sampling)
    guesses = Guesses({number: answer.token_ids for number, answer in plain.items()})
    engine = guessing(engine_of(), guesses)
    answers = answers_of(engine, sampling)
    assert {n: said(a) for n, a in answers.items()} == {n: said(a) for n, a in plain.items()}
    assert engine.blocks.num_free == engine.blocks.num_blocks
    assert not guesses.known, "something is kept of sequences that have ended"
    if max(len(a.token_ids) for a in plain.values()) > 6:
        assert 0 < guesses.accepted < guesses.drafted


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_however_the_work_is_cut_up(engine_of: Build, shape: dict[str, Any]) -> None:
    sampling = {"temperature": 0.8, "seed": 3}
    plain = answers_of(engine_of(), sampling)
    known = {number: answer.token_ids for number, answer in plain.items()}
    for seed in range(4):
        guesses = Guesses(known, seed=seed)
        engine = guessing(engine_of(**shape), guesses)
        answers = answers_of(engine, sampling)
        assert {n: said(a) for n, a in answers.items()} == {n: said(a) for n, a in plain.items()}
        assert guesses.accepted > 0
        assert all(load.decodes + load.drafts <= shape.get("max_batched_tokens", 512) for load in guesses.loads)
        again = answers_of(engine, sampling)  # now from the prefix cache, which has the answers' blocks, too
        assert {n: said(a) for n, a in again.items()} == {n: said(a) for n, a in plain.items()}
    if shape == {"num_blocks": 42}:
        assert engine.stats().preemptions_total > 0


def test_an_answer_that_is_the_prompt_of_the_next_turn_is_found_in_the_prefix_cache(engine_of: Build) -> None:
    [prompt] = prompts_of(17)
    plain = engine_of()
    first = run(plain, [request_of(0, prompt)])["0"].token_ids
    [next_turn] = [prompt + first + [1, 2, 3]]
    second = run(plain, [request_of(1, next_turn)])["1"].token_ids
    engine = guessing(engine_of(), Guesses({"0": first, "1": second}, right=0.6))
    assert run(engine, [request_of(0, prompt)])["0"].token_ids == first
    answer = run(engine, [request_of(1, next_turn)])["1"]
    assert answer.token_ids == second
    assert answer.last.usage is not None
    assert answer.last.usage.cached_tokens == 40


def test_what_comes_after_the_end_is_dropped_from_an_accepted_run(engine_of: Build) -> None:
    [prompt] = prompts_of(17)
    whole = run(engine_of(), [request_of(0, prompt)])["0"].token_ids
    stop = whole[5]
    end = whole.index(stop) + 1
    engine = guessing(engine_of(), Guesses({"0": whole}, right=1.0, most=20, seed=4))
    answer = run(engine, [request_of(0, prompt, stop_token_ids=[stop])])["0"]
    assert answer.token_ids == whole[:end]
    assert answer.last.finish_reason is FinishReason.STOP
    assert answer.last.usage is not None
    assert answer.last.usage.completion_tokens == end
    assert len(answer.outputs) < end, "several tokens came in one step"
    assert engine.stats().output_tokens_total == end


def test_an_answer_resumed_inside_an_accepted_run_goes_on_as_if_undisturbed(engine_of: Build) -> None:
    [prompt] = prompts_of(17)
    sampling: dict[str, Any] = {"temperature": 0.9, "seed": 5, "presence_penalty": 0.5}
    whole = run(engine_of(), [request_of(0, prompt, **sampling)])["0"].token_ids
    engine = guessing(engine_of(), Guesses({"0": whole}, right=0.9))
    for cut in range(0, 25, 3):
        assert run(engine, [request_of(0, prompt, whole[:cut], **sampling)])["0"].token_ids == whole


def test_paced_decodes_are_paced_by_the_drafts_beside_them_too(engine_of: Build) -> None:
    prompts = prompts_of(20, 90)
    plain = run(engine_of(), [request_of(i, p) for i, p in enumerate(prompts)])
    engine = guessing(engine_of(), Guesses({n: a.token_ids for n, a in plain.items()}))
    paced = [msgspec.structs.replace(request_of(i, p), tbt_slo_ms=5.0) for i, p in enumerate(prompts)]
    assert {n: a.token_ids for n, a in run(engine, paced).items()} == {n: a.token_ids for n, a in plain.items()}
