"""`Adapter`: what LoRA (Hu et al., 2021) adds to a model's products. Data only; an executor computes it."""

from dataclasses import dataclass
from typing import Literal

import torch

ProductKind = Literal["qkv", "attention_out", "gate_up", "down"]
"""The products of a `Layer` and of its dense `Mlp` that can be adapted; named as their fields."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """y[first_row : first_row + out] += b · (a · x), y being the output of one product for one row of a step.

    `a` is (rank, in), `b` (out, rank), both float32 and contiguous; the adapter's scaling is in `b`.
    """

    first_row: int
    a: torch.Tensor
    b: torch.Tensor

    @property
    def outputs(self) -> slice:
        """Which of the product's outputs change."""
        return slice(self.first_row, self.first_row + len(self.b))


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter called `name`: for each layer of the model the low-rank parts of its products, often none.

    The parts of one product never overlap: q, k and v of `qkv` are one each, as are gate and up of `gate_up`.
    """

    name: str
    layers: list[dict[ProductKind, tuple[LowRank, ...]]]
