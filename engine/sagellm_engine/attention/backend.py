"""What a model and the runner need of attention, whatever the device."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a step that belong to one sequence.

    Rows `row` … `row + num_tokens - 1` of the step are the sequence's positions `start` … ; `blocks` hold at least
    its first `start + num_tokens` tokens.
    """

    row: int
    num_tokens: int
    start: int
    blocks: list[int]

    @property
    def end(self) -> int:
        """Tokens that the last row attends to, itself included."""
        return self.start + self.num_tokens


class StepAttention(Protocol):
    """Attention of one step: knows every row's sequence and place in the cache."""

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Write the rows' keys and values to the cache, and attend.

        `qkv` is (rows, (heads + 2 · kv_heads) · head_dim), already rotated; the result is (rows, heads ·
        head_dim).
        """
        ...


class AttentionBackend(Protocol):
    """Owns the KV cache of all layers."""

    def begin_step(self, spans: list[Span]) -> StepAttention:
        """Prepare a step whose rows are those of `spans`, in order, without gaps."""
        ...

    def clear(self, blocks: list[int]) -> None:
        """Overwrite the content of `blocks` with zeros."""
        ...
