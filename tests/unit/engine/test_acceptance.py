"""Speculation keeps the distribution: what is accepted is what would have been drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sagellm_engine.sampler import Sampled, Sampler
from sagellm_engine.sequence import Sequence
from sagellm_engine.speculation import Ahead, accept
from sagellm_schemas import SamplingParams

VOCABULARY = 4
SAMPLES = 6_000


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_a_run_ends_with_the_first_token_that_was_not_guessed(drafts: list[int], tokens: list[int]) -> None:
    drawn = [Sampled(token_id) for token_id in tokens[: len(drafts) + 1]]
    accepted = [sampled.token_id for sampled in accept(drafts, drawn)]
    assert 1 <= len(accepted) <= len(drafts) + 1
    assert accepted == tokens[: len(accepted)]
    assert accepted[:-1] == drafts[: len(accepted) - 1]
    if len(accepted) <= len(drafts):
        assert accepted[-1] != drafts[len(accepted) - 1]


def test_a_token_is_drawn_as_if_the_drafts_before_it_were_part_of_the_answer() -> None:
    sampling = SamplingParams(frequency_penalty=0.3, repetition_penalty=1.1)
    sequence = Sequence("s", [1, 2], sampling, max_tokens=9, seed=7, resume_token_ids=[3])
    sequence.drafts = [4, 5, 6]
    ahead = Ahead(sequence, 2)
    grown = Sequence("s", [1, 2], sampling, max_tokens=9, seed=7, resume_token_ids=[3, 4, 5])
    for name in ("sampling", "seed", "num_output", "token_ids", "output_token_ids"):
        assert getattr(ahead, name) == getattr(grown, name)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"temperature": 1.0}, id="plain"),
        pytest.param({"temperature": 1.4, "top_k": 3}, id="top-k"),
        pytest.param({"temperature": 0.7, "presence_penalty": 0.9}, id="penalty"),
    ],
)
@pytest.mark.parametrize("draft", [0, 3])
def test_pairs_of_tokens_come_as_often_as_their_probabilities_say(params: dict[str, float], draft: int) -> None:
    """Whatever the first token is guessed to be, likely (3) or unlikely (0)."""
    sampling = SamplingParams(**params)
    after = torch.randn(VOCABULARY + 1, VOCABULARY, generator=torch.Generator().manual_seed(2))
    after[VOCABULARY] = torch.tensor([-1.0, 0.3, 0.0, 1.2])  # of the first token
    pairs = drawn_with_drafts(after, sampling, draft)
    observed = np.bincount(pairs, minlength=VOCABULARY**2)
    expected = probabilities(after, sampling) * SAMPLES
    possible = expected > 0
    assert not observed[~possible].any()
    chi_square = float(((observed - expected)[possible] ** 2 / expected[possible]).sum())
    assert chi_square < 37.7  # 15 degrees of freedom at most: one in a thousand is above


def drawn_with_drafts(after: torch.Tensor, sampling: SamplingParams, draft: int) -> np.ndarray:
    """Numbers of the pairs that many seeds give: the second token from the same step if the draft was right."""
    sampler = Sampler([])
    sequences = [Sequence("s", [9], sampling, max_tokens=9, seed=seed) for seed in range(SAMPLES)]
    for sequence in sequences:
        sequence.drafts = [draft]
    contexts = [context for s in sequences for context in (s, Ahead(s, 1))]
    drawn = sampler.sample(after[[VOCABULARY, draft] * SAMPLES], contexts)
    pairs = np.zeros(SAMPLES, dtype=np.int64)
    for number, sequence in enumerate(sequences):
        run = accept(sequence.drafts, drawn[2 * number : 2 * number + 2])
        sequence.token_ids += [sampled.token_id for sampled in run]
    rejected = [s for s in sequences if s.num_output == 1]
    assert rejected
    later = sampler.sample(after[[s.token_ids[-1] for s in rejected]], rejected)
    for sequence, sampled in zip(rejected, later, strict=True):
        sequence.token_ids.append(sampled.token_id)
    for number, sequence in enumerate(sequences):
        first, second = sequence.output_token_ids
        pairs[number] = first * VOCABULARY + second
    return pairs


def probabilities(after: torch.Tensor, sampling: SamplingParams) -> np.ndarray:
    """Of each pair, by the definitions."""
    firsts = filtered(after[VOCABULARY], sampling)
    joint = []
    for first in range(VOCABULARY):
        scores = after[first].clone()
        scores[first] -= sampling.presence_penalty
        joint.append(firsts[first] * filtered(scores, sampling))
    return np.concatenate(joint)


def filtered(scores: torch.Tensor, sampling: SamplingParams) -> np.ndarray:
    shares = (scores.double() / sampling.temperature).softmax(-1).numpy()
    if sampling.top_k:
        shares = np.where(shares >= np.sort(shares)[-sampling.top_k], shares, 0.0)
    return shares / shares.sum()
