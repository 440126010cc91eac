"""How well a model predicts a text: the loss of every token, from which comes its perplexity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .execution import Executor, Span

_ROWS = 128
"""Scores of so many tokens are in memory at once: 25 MB for a vocabulary of 50,000."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """`losses` in nats of each scored token, and `choices`, the ids the model held likeliest in their places."""

    losses: list[float]
    choices: list[int]

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(sum(self.losses) / len(self.losses))


@torch.inference_mode()
def score_text(
    executor: Executor,
    token_ids: Sequence[int],
    *,
    prefix: Sequence[int],
    window_tokens: int,
    block_size: int,
    progress: Callable[[int, int], None] = lambda _scored, _total: None,
) -> TextScore:
    """Score `token_ids` in windows of `window_tokens`, `prefix` (such as BOS) included, that overlap by a half.

    Every token is scored once, but for the first of a text without a prefix; those behind the first window have
    at least half a window before them. It takes the KV blocks from 0 to that of the last token of a window, which
    nobody else may use. `progress` is told how many tokens are scored, and of how many.
    """
    body = window_tokens - len(prefix)
    step = max(1, body // 2)
    blocks = list(range(-(-window_tokens // block_size)))
    score = TextScore([], [])
    first = 0 if prefix else 1
    end = begin = 0
    while end < len(token_ids):
        unscored = max(end, first)
        end = min(begin + body, len(token_ids))
        rows = [*prefix, *token_ids[begin:end]]
        _score_rows(executor, rows, len(rows) - (end - unscored), blocks, score)
        progress(end, len(token_ids))
        begin += step
    return score


def _score_rows(
    executor: Executor, token_ids: list[int], unscored: int, blocks: list[int], score: TextScore
) -> None:
    """Run `token_ids` as one sequence; append the scores of those from the place `unscored` on."""
    for start in range(0, len(token_ids), _ROWS):
        rows = token_ids[start : start + _ROWS]
        # The row before a token scores it; the last row of all scores nothing.
        wanted = [i for i in range(len(rows)) if unscored <= start + i + 1 < len(token_ids)]
        positions = list(range(start, start + len(rows)))
        scores = executor.forward(rows, positions, [Span(0, len(rows), start, blocks)], wanted)
        if wanted:
            targets = torch.tensor([token_ids[start + i + 1] for i in wanted])
            losses = torch.nn.functional.cross_entropy(scores.logits, targets, reduction="none")
            score.losses.extend(losses.tolist())
            score.choices.extend(scores.best)
