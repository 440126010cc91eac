"""Sampling follows its definitions, and its randomness depends on seed and position alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_engine.random_stream import uniform
from sagellm_engine.sampler import Sampler, candidates, draw
from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams

VOCABULARY = 50


def sequence_of(
    output: list[int] | None = None, seed: int = 1, prompt: list[int] | None = None, **params
) -> Sequence:
    sampling = SamplingParams(**params)
    return Sequence(
        "s", prompt or [3, 4, 4], sampling, max_tokens=99, seed=seed, resume_token_ids=list(output or [])
    )


def scores(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def reference_filter(logits: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The tokens that are left, by the definitions and with plain loops."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        order = order[:top_k]
    total = sum(math.exp(logits[i]) for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += math.exp(logits[i]) / total
    best = math.exp(logits[order[0]])
    return {i for i in kept if math.exp(logits[i]) >= min_p * best}


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(0, VOCABULARY + 5),
    top_p=st.sampled_from([0.05, 0.3, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
)
def test_filters_keep_what_their_definitions_keep(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = scores(seed=seed)
    expected = reference_filter(logits[0].double().tolist(), top_k, top_p, min_p)
    row = logits[0].softmax(-1).numpy()
    token_ids, weights = candidates(row, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
    kept = list(range(VOCABULARY)) if token_ids is None else token_ids.tolist()
    assert set(kept) == expected
    assert kept == sorted(kept)
    assert np.array_equal(weights, row[kept])


@pytest.mark.parametrize(
    ("params", "count"), [({"top_p": 0.75}, 3000), ({"top_k": 3000}, 3000), ({"top_p": 0.01}, 40)]
)
def test_many_candidates_of_a_flat_distribution_are_found(params: dict[str, float], count: int) -> None:
    row = torch.linspace(0, 1e-3, 4000).softmax(-1).numpy()
    token_ids, _ = candidates(row, SamplingParams(**params))
    assert token_ids is not None
    assert len(token_ids) == pytest.approx(count, abs=5)  # rounding makes ties, which stay


def test_top_k_reaches_beyond_the_likely_tokens_of_a_sharp_distribution() -> None:
    row = torch.tensor([0.0, 30.0, 1.0, 2.0, 3.0]).softmax(-1).numpy()
    token_ids, _ = candidates(row, SamplingParams(top_k=3))
    assert token_ids is not None
    assert token_ids.tolist() == [1, 3, 4]


def test_each_row_of_a_batch_has_its_own_parameters() -> None:
    logits = scores(3)
    sequences = [
        sequence_of(temperature=0.0),
        sequence_of(temperature=1.0, top_k=1),
        sequence_of(temperature=1.0, logprobs=2),
    ]
    best = logits.argmax(-1).tolist()
    first, second, third = Sampler([]).sample(logits.clone(), sequences)
    assert [first.token_id, second.token_id] == best[:2]
    assert first.logprob is None
    assert len(third.top) == 2


def test_the_same_seed_and_position_draw_the_same_token_whatever_the_batch() -> None:
    logits = scores(4)
    alone = [int(draw(logits[i : i + 1], [sequence_of([1] * i, seed=9)])) for i in range(4)]
    together = draw(logits, [sequence_of([1] * i, seed=9) for i in range(4)]).tolist()
    assert alone == together


def test_other_seeds_and_positions_draw_other_numbers() -> None:
    numbers = uniform([5, 5, 6, -6, 2**63 - 1], [0, 1, 0, 0, 0])
    assert len(set(numbers.tolist())) == 5
    assert np.array_equal(numbers, uniform([5, 5, 6, -6, 2**63 - 1], [0, 1, 0, 0, 0]))


@pytest.mark.parametrize("axis", ["seed", "position"])
def test_random_numbers_are_uniform_and_uncorrelated(axis: str) -> None:
    count = 40_000
    steps = list(range(count))
    numbers = uniform(steps, [3] * count) if axis == "seed" else uniform([3] * count, steps)
    assert 0 <= numbers.min() < numbers.max() < 1
    observed, _ = np.histogram(numbers, bins=100, range=(0, 1))
    chi_square = float(((observed - count / 100) ** 2 / (count / 100)).sum())
    assert chi_square < 149  # 99 degrees of freedom: one in a thousand is above
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    count = 20_000
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log().repeat(count, 1)
    drawn = draw(logits, [sequence_of(seed=seed) for seed in range(count)])
    observed = np.bincount(drawn.numpy(), minlength=4)
    expected = np.array([0.5, 0.25, 0.15, 0.1]) * count
    assert float(((observed - expected) ** 2 / expected).sum()) < 16.3  # 3 degrees of freedom, one in a thousand


def test_temperature_sharpens_and_flattens() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4000, 1)
    shares = [
        float((draw(logits, [sequence_of(seed=s, temperature=t) for s in range(4000)]) == 0).float().mean())
        for t in (0.2, 1.0, 2.0)
    ]
    expected = [float((torch.tensor([2.0, 1.0, 0.0]) / t).softmax(0)[0]) for t in (0.2, 1.0, 2.0)]
    assert shares == pytest.approx(expected, abs=0.03)


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = torch.full((500, VOCABULARY), -torch.inf)
    logits[:, 17] = 1.0
    assert draw(logits, [sequence_of(seed=s) for s in range(500)]).tolist() == [17] * 500


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    logits = torch.zeros(1, VOCABULARY)
    sequence = sequence_of([7, 7, 8], temperature=0.0, presence_penalty=0.5, frequency_penalty=0.25)
    Sampler([]).sample(logits, [sequence])
    assert logits[0, [3, 7, 8]].tolist() == [0.0, -1.0, -0.75]


def test_the_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = torch.ones(1, VOCABULARY)
    logits[0, 4] = -1.0
    Sampler([]).sample(logits, [sequence_of([7], temperature=0.0, repetition_penalty=2.0)])
    assert logits[0, [3, 4, 7, 9]].tolist() == [0.5, -2.0, 0.5, 1.0]


def test_penalties_change_the_greedy_choice() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 7], logits[0, 9] = 2.0, 1.0
    [sampled] = Sampler([]).sample(logits, [sequence_of([7], temperature=0.0, presence_penalty=1.5)])
    assert sampled.token_id == 9


def test_logprobs_are_those_of_the_unmodified_distribution() -> None:
    logits = scores()
    expected = logits[0].double().log_softmax(-1)
    sequence = sequence_of([7], temperature=1.7, top_k=3, presence_penalty=1.0, repetition_penalty=1.3, logprobs=5)
    [sampled] = Sampler([]).sample(logits.clone(), [sequence])
    assert sampled.logprob == pytest.approx(float(expected[sampled.token_id]), abs=1e-5)
    best = expected.topk(5)
    assert [token for token, _ in sampled.top] == best.indices.tolist()
    assert [value for _, value in sampled.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_no_end_is_chosen_below_min_tokens() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 2], logits[0, 5], logits[0, 6] = 9.0, 8.0, 7.0
    few = sequence_of([1], temperature=0.0, min_tokens=2, stop_token_ids=[5, 10**9])
    enough = sequence_of([1, 1], temperature=0.0, min_tokens=2, stop_token_ids=[5])
    sampler = Sampler([2])
    assert [s.token_id for s in sampler.sample(logits.clone(), [few])] == [6]
    assert [s.token_id for s in sampler.sample(logits.clone(), [enough])] == [2]
