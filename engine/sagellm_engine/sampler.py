"""From logits to tokens: penalties, filters, and one random number per token.

Greedy rows are a plain argmax. For the others the order is: repetition penalty (Keskar et al., 2019), frequency
and presence penalties (OpenAI), temperature, top-k, top-p of what top-k left, min-p; then the inverse of the
cumulative distribution over what is left, in order of token id, at the position's number of the random stream.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from sagellm_schemas import SamplingParams

from .random_stream import uniform
from .sequence import Sequence

GREEDY_BELOW = 1e-5
"""A lower temperature is taken for 0."""

_NUCLEUS_CANDIDATES = 512
"""top-p looks at so many of the best tokens before it sorts the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and if asked for the natural-log probabilities of it and of the best ones, best first."""

    token_id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)


class Sampler:
    """Stateless but for what it knows of the model."""

    def __init__(self, eos_token_ids: list[int]) -> None:
        self._eos_token_ids = eos_token_ids

    def sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[Sampled]:
        """The next token of each sequence from its row of `logits` (rows, vocabulary), which may be written to."""
        raw = logits
        if any(needs_change(s) for s in sequences):
            raw = logits.clone() if any(s.sampling.logprobs is not None for s in sequences) else logits
            for row, sequence in enumerate(sequences):
                if needs_change(sequence):
                    self._change(logits[row], sequence)
        random_rows = [row for row, s in enumerate(sequences) if s.sampling.temperature >= GREEDY_BELOW]
        tokens = (
            logits.argmax(-1) if len(random_rows) < len(sequences) else torch.empty(len(logits), dtype=torch.int64)
        )
        if random_rows:
            chosen = [sequences[row] for row in random_rows]
            tokens[random_rows] = draw(logits[random_rows], chosen)
        token_ids: list[int] = tokens.tolist()
        return [
            Sampled(token_id)
            if sequence.sampling.logprobs is None
            else _with_logprobs(raw[row], token_id, sequence)
            for row, (token_id, sequence) in enumerate(zip(token_ids, sequences, strict=True))
        ]

    def _change(self, logits: torch.Tensor, sequence: Sequence) -> None:
        """Penalties, and the ban on ending below `min_tokens`; in place, on one row."""
        params = sequence.sampling
        if params.repetition_penalty != 1.0:
            seen = torch.from_numpy(np.unique(np.array(sequence.token_ids)))
            scores = logits[seen]
            logits[seen] = torch.where(
                scores < 0, scores * params.repetition_penalty, scores / params.repetition_penalty
            )
        if sequence.num_output and (params.frequency_penalty or params.presence_penalty):
            tokens, counts = np.unique(np.array(sequence.output_token_ids), return_counts=True)
            penalty = torch.from_numpy(counts).float() * params.frequency_penalty + params.presence_penalty
            logits[torch.from_numpy(tokens)] -= penalty
        if sequence.num_output < params.min_tokens:
            banned = params.stop_token_ids + ([] if params.ignore_eos else self._eos_token_ids)
            logits[[token for token in banned if 0 <= token < len(logits)]] = -torch.inf


def needs_change(sequence: Sequence) -> bool:
    """Whether the model's logits are not sampled from as they are."""
    p: SamplingParams = sequence.sampling
    return (
        p.repetition_penalty != 1.0
        or p.presence_penalty != 0.0
        or p.frequency_penalty != 0.0
        or sequence.num_output < p.min_tokens
    )


def draw(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """One token for each row, at random."""
    params = [s.sampling for s in sequences]
    logits = logits / torch.tensor([p.temperature for p in params]).unsqueeze(1)
    filter_rows(logits, params)
    numbers = uniform([s.seed for s in sequences], [s.num_output for s in sequences])
    cumulative = logits.softmax(-1).double().cumsum(-1)
    targets = torch.from_numpy(numbers).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1)


def filter_rows(logits: torch.Tensor, params: list[SamplingParams]) -> None:
    """top-k, top-p and min-p in place: what they exclude becomes -inf. Ties with the last one kept stay."""
    for row, p in enumerate(params):
        scores = logits[row]
        if 0 < p.top_k < len(scores):
            _keep_from(scores, scores.topk(p.top_k).values[-1])
        if p.top_p < 1.0:
            _keep_from(scores, _nucleus_edge(scores, p.top_p))
        if p.min_p > 0.0:
            _keep_from(scores, scores.max() + float(np.log(p.min_p)))


def _nucleus_edge(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """The lowest score among the fewest best tokens whose probabilities reach `top_p`."""
    total = scores.double().logsumexp(-1)
    for candidates in (min(_NUCLEUS_CANDIDATES, len(scores)), len(scores)):
        best = scores.topk(candidates).values
        reached = (best.double() - total).exp().cumsum(-1) >= top_p
        if bool(reached[-1]) or candidates == len(scores):
            break
    index = int(reached.to(torch.uint8).argmax()) if bool(reached[-1]) else len(best) - 1
    return best[index]


def _keep_from(scores: torch.Tensor, edge: torch.Tensor) -> None:
    scores.masked_fill_(scores < edge, -torch.inf)


def _with_logprobs(raw: torch.Tensor, token_id: int, sequence: Sequence) -> Sampled:
    logprobs = raw.float().log_softmax(-1)
    best = logprobs.topk(min(sequence.sampling.logprobs or 0, len(logprobs)))
    top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Sampled(token_id, float(logprobs[token_id]), top)
