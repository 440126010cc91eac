"""Rotary position embeddings (Su et al., 2021) in the half-split layout of Hugging Face."""

import torch

from sagellm_engine.config import Rope

from .rope_scaling import scaled_frequencies


class RotaryTable:
    """Cosines and sines of every position up to `max_model_len`: `cos` and `sin`, (positions, rotated / 2)."""

    def __init__(self, rope: Rope, max_model_len: int, declared_len: int | None = None) -> None:
        """`declared_len` is how long sequences may be by the settings, and chooses the scaling for it.

        `max_model_len` may be less where memory is short, and memory must not change answers.
        """
        frequencies, attention_factor = scaled_frequencies(rope, declared_len or max_model_len)
        angles = torch.outer(torch.arange(max_model_len).float(), frequencies)
        self.cos = angles.cos().mul_(attention_factor)
        self.sin = angles.sin().mul_(attention_factor)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `positions`, each (rows, 1, rotated / 2)."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn the first `rotated` dimensions of x (rows, heads, head_dim) in place by the angles of its rows."""
    first, second = x[..., : 2 * cos.shape[-1]].chunk(2, dim=-1)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)
