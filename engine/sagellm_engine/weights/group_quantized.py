"""`GroupQuantized`: the one form that every quantized weight takes when it is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class GroupQuantized:
    """A weight matrix of small whole numbers with a scale and a minimum for each group of inputs.

    weight = scale * value + minimum, in float32, rounded after each of the two operations.

    - `values`: uint8 (out, in), one value a byte, each below 2 ** `bits`.
    - `scales`, `minimums`: float32 (out, in / group_size).
    - `bits`: 4 or 8.

    It is a form to exchange, not to compute with: an executor packs it for its device and lets it go.
    """

    values: torch.Tensor
    scales: torch.Tensor
    minimums: torch.Tensor
    bits: int
    group_size: int

    def __post_init__(self) -> None:
        assert self.bits in (4, 8), self.bits
        assert self.values.dtype is torch.uint8, self.values.dtype
        assert self.values.dim() == 2, self.values.shape
        out_features, in_features = self.shape
        assert self.group_size >= 1, self.group_size
        assert in_features % self.group_size == 0, (in_features, self.group_size)
        groups = (out_features, in_features // self.group_size)
        for numbers in (self.scales, self.minimums):
            assert numbers.dtype is torch.float32, numbers.dtype
            assert tuple(numbers.shape) == groups, (numbers.shape, groups)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), as of the matrix it stands for."""
        return self.values.shape[0], self.values.shape[1]

    def dequantize(self) -> torch.Tensor:
        """The matrix, float32 (out, in)."""
        return _weights(self.values, self.scales, self.minimums)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` (any shape, int64) of the matrix, float32 (*ids.shape, in): an embedding's lookup."""
        return _weights(self.values[ids], self.scales[ids], self.minimums[ids])

    def halves(self) -> tuple["GroupQuantized", "GroupQuantized"]:
        """The upper and the lower half of the rows, as views."""
        middle = self.shape[0] // 2
        upper, lower = (
            GroupQuantized(
                values=self.values[rows],
                scales=self.scales[rows],
                minimums=self.minimums[rows],
                bits=self.bits,
                group_size=self.group_size,
            )
            for rows in (slice(0, middle), slice(middle, None))
        )
        return upper, lower

    @staticmethod
    def cat(parts: Sequence["GroupQuantized"]) -> "GroupQuantized":
        """`parts` stacked along `out`, copied.

        Raises:
            ValueError: they differ in bits, group size or inputs.
        """
        kinds = {(part.bits, part.group_size, part.shape[1]) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"cannot stack weights of different (bits, group_size, in): {sorted(kinds)}")
        ((bits, group_size, _),) = kinds
        return GroupQuantized(
            values=torch.cat([part.values for part in parts]),
            scales=torch.cat([part.scales for part in parts]),
            minimums=torch.cat([part.minimums for part in parts]),
            bits=bits,
            group_size=group_size,
        )


def packed_bits(bits: int, group_size: int) -> float:
    """Bits that a weight takes once it is packed, its part of a 16-bit scale and minimum included."""
    return bits + 32 / group_size


Weight = torch.Tensor | GroupQuantized
"""A tensor of a checkpoint."""


def _weights(values: torch.Tensor, scales: torch.Tensor, minimums: torch.Tensor) -> torch.Tensor:
    # Two operations in place: what is fused would round once, and differ from the formats' own definitions.
    groups = values.float().reshape(*scales.shape, -1)
    return groups.mul_(scales[..., None]).add_(minimums[..., None]).reshape(values.shape)
