"""`PackedWeight`: quantized weights as the matrix kernels read them."""

import math
from dataclasses import dataclass

import torch

from sagellm_engine.weights import GroupQuantized

_LARGEST_GROUP = 128
"""A program holds a whole group of inputs at once; larger groups are split, their scales repeated."""

_SMALLEST_DOT = 16
"""What tensor cores multiply at least along the inputs."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """Group by group of inputs, so that what a program reads of a group lies side by side for its outputs.

    - `values`: uint8 (groups, out, group_size · bits / 8). With 4 bits, byte j of a group holds value j in its
      low half and value j + group_size / 2 in its high half: both halves of the bytes are then runs of inputs.
    - `scales`, `minimums`: (groups, out), float16 where that loses nothing that matters, else float32.
    """

    values: torch.Tensor
    scales: torch.Tensor
    minimums: torch.Tensor
    bits: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), as of the matrix it stands for."""
        return self.values.shape[1], self.values.shape[0] * self.group_size


def pack(weight: GroupQuantized, device: torch.device) -> PackedWeight:
    """`weight` on `device`, as the kernels read it.

    Raises:
        ValueError: its groups are no multiple of 16 inputs.
    """
    group_size = math.gcd(weight.group_size, _LARGEST_GROUP)
    if group_size < _SMALLEST_DOT:
        raise ValueError(f"groups of {weight.group_size} inputs cannot be packed; they must be a multiple of 16")
    out_features, in_features = weight.shape
    repeats = weight.group_size // group_size
    values = weight.values.to(device).view(out_features, in_features // group_size, group_size).transpose(0, 1)
    bits = weight.bits if group_size >= 2 * _SMALLEST_DOT else 8
    if bits == 4:
        low, high = values.chunk(2, dim=-1)
        values = low | (high << 4)
    scales, minimums = (
        numbers.to(device).repeat_interleave(repeats, dim=1).T.contiguous()
        for numbers in (weight.scales, weight.minimums)
    )
    return PackedWeight(values.contiguous(), _shortest(scales), _shortest(minimums), bits, group_size)


def unpack(weight: PackedWeight) -> torch.Tensor:
    """The matrix, float32 (out, in)."""
    values = weight.values
    if weight.bits == 4:
        values = torch.cat([values & 15, values >> 4], dim=-1)
    dense = values.float() * weight.scales.float().unsqueeze(-1) + weight.minimums.float().unsqueeze(-1)
    return dense.transpose(0, 1).flatten(1)


def _shortest(numbers: torch.Tensor) -> torch.Tensor:
    """float16, unless a number would be wrong by more than float16's own 2^-11 relative to it."""
    half = numbers.half()
    fits = torch.isfinite(half) & ((half.float() - numbers).abs() <= numbers.abs() * 2.0**-10)
    return half if bool(fits.all()) else numbers
