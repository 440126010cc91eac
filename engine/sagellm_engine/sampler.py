"""From logits to tokens: penalties, filters, and one random number per token.

Greedy rows are a plain argmax. For the others the order is: repetition penalty (Keskar et al., 2019), frequency
and presence penalties (OpenAI), temperature, top-k, top-p of what top-k left, min-p; then the inverse of the
cumulative distribution over what is left, in order of token id, at the position's number of the random stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sagellm_schemas import SamplingParams

from .random_stream import uniform

GREEDY_BELOW = 1e-5
"""A lower temperature is taken for 0."""

_LIKELY = 1e-4
"""top-k looks first at the tokens that are at least so likely, relative to the best one."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and if asked for the natural-log probabilities of it and of the best ones, best first."""

    token_id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)


class Context(Protocol):
    """What a token is drawn after: a `Sequence`, or what one would be with some more tokens.

    `token_ids` are prompt and answer so far, `output_token_ids` the answer alone, of `num_output` tokens.
    """

    @property
    def sampling(self) -> SamplingParams: ...

    @property
    def seed(self) -> int: ...

    @property
    def num_output(self) -> int: ...

    @property
    def token_ids(self) -> list[int]: ...

    @property
    def output_token_ids(self) -> list[int]: ...


class Sampler:
    """Stateless but for what it knows of the model."""

    def __init__(self, eos_token_ids: list[int]) -> None:
        self._eos_token_ids = eos_token_ids

    def sample(self, logits: torch.Tensor, contexts: Sequence[Context]) -> list[Sampled]:
        """The next token after each context, from its row of `logits` (rows, vocabulary).

        `logits` may be written to.
        """
        raw = logits
        if any(needs_change(c) for c in contexts):
            raw = logits.clone() if any(c.sampling.logprobs is not None for c in contexts) else logits
            for row, context in enumerate(contexts):
                if needs_change(context):
                    self._change(logits[row], context)
        random_rows = [row for row, c in enumerate(contexts) if c.sampling.temperature >= GREEDY_BELOW]
        tokens = (
            logits.argmax(-1) if len(random_rows) < len(contexts) else torch.empty(len(logits), dtype=torch.int64)
        )
        if random_rows:
            chosen = [contexts[row] for row in random_rows]
            tokens[random_rows] = draw(logits[random_rows], chosen)
        token_ids: list[int] = tokens.tolist()
        return [
            Sampled(token_id)
            if context.sampling.logprobs is None
            else _with_logprobs(raw[row], token_id, context.sampling.logprobs)
            for row, (token_id, context) in enumerate(zip(token_ids, contexts, strict=True))
        ]

    def _change(self, logits: torch.Tensor, context: Context) -> None:
        """Penalties, and the ban on ending below `min_tokens`; in place, on one row."""
        params = context.sampling
        if params.repetition_penalty != 1.0:
            seen = torch.from_numpy(np.unique(np.array(context.token_ids)))
            scores = logits[seen]
            logits[seen] = torch.where(
                scores < 0, scores * params.repetition_penalty, scores / params.repetition_penalty
            )
        if context.num_output and (params.frequency_penalty or params.presence_penalty):
            tokens, counts = np.unique(np.array(context.output_token_ids), return_counts=True)
            penalty = torch.from_numpy(counts).float() * params.frequency_penalty + params.presence_penalty
            logits[torch.from_numpy(tokens)] -= penalty
        if context.num_output < params.min_tokens:
            banned = params.stop_token_ids + ([] if params.ignore_eos else self._eos_token_ids)
            logits[[token for token in banned if 0 <= token < len(logits)]] = -torch.inf


def takes_best(context: Context) -> bool:
    """Whether the answer goes on with the token of the highest score, and nothing else is asked for."""
    sampling = context.sampling
    return sampling.temperature < GREEDY_BELOW and sampling.logprobs is None and not needs_change(context)


def needs_change(context: Context) -> bool:
    """Whether the model's logits are not sampled from as they are."""
    p: SamplingParams = context.sampling
    return (
        p.repetition_penalty != 1.0
        or p.presence_penalty != 0.0
        or p.frequency_penalty != 0.0
        or context.num_output < p.min_tokens
    )


def draw(logits: torch.Tensor, contexts: Sequence[Context]) -> torch.Tensor:
    """One token for each row, at random."""
    temperatures = torch.tensor([s.sampling.temperature for s in contexts])
    probabilities = (logits / temperatures.unsqueeze(1)).softmax(-1).numpy()
    numbers = uniform([s.seed for s in contexts], [s.num_output for s in contexts])
    tokens = []
    for row, number, context in zip(probabilities, numbers, contexts, strict=True):
        token_ids, weights = candidates(row, context.sampling)
        cumulative = weights.cumsum(dtype=np.float64)
        index = int(cumulative.searchsorted(number * cumulative[-1], side="right"))
        tokens.append(index if token_ids is None else int(token_ids[index]))
    return torch.tensor(tokens)


def candidates(row: Floats, params: SamplingParams) -> tuple[NDArray[np.int64] | None, Floats]:
    """What top-k, top-p and min-p leave of a row of probabilities: token ids in order, and their probabilities.

    The ids are None when nothing is filtered. Tokens as likely as the last one that is kept stay too.
    """
    if not (params.top_k or params.top_p < 1.0 or params.min_p):
        return None, row
    token_ids = np.flatnonzero(row >= _lower_bound(row, params))
    weights = row[token_ids]
    if 0 < params.top_k < len(weights):
        place = len(weights) - params.top_k
        kept = weights >= np.partition(weights, place)[place]
        token_ids, weights = token_ids[kept], weights[kept]
    if params.top_p < 1.0:
        total = float(weights.sum(dtype=np.float64)) if params.top_k else 1.0
        descending = np.sort(weights)[::-1]
        place = int(descending.cumsum(dtype=np.float64).searchsorted(params.top_p * total))
        kept = weights >= descending[min(place, len(descending) - 1)]
        token_ids, weights = token_ids[kept], weights[kept]
    if params.min_p:
        kept = weights >= params.min_p * weights.max()
        token_ids, weights = token_ids[kept], weights[kept]
    return token_ids, weights


def _lower_bound(row: Floats, params: SamplingParams) -> float:
    """A probability below which no candidate can be, to look at few tokens instead of the whole vocabulary."""
    bound = 0.0
    if params.top_k:
        likely = float(row.max()) * _LIKELY
        bound = likely if np.count_nonzero(row >= likely) >= params.top_k else 0.0
    elif params.top_p < 1.0:
        # All tokens less likely than this share of what top-p leaves out do not reach that, even together.
        bound = 0.5 * (1.0 - params.top_p) / len(row)
    return bound


def _with_logprobs(raw: torch.Tensor, token_id: int, count: int) -> Sampled:
    logprobs = raw.float().log_softmax(-1)
    best = logprobs.topk(min(count, len(logprobs)))
    top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Sampled(token_id, float(logprobs[token_id]), top)
