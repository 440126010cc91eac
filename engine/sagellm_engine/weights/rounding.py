"""Rounding a matrix to whole numbers of 4 or 8 bits, in groups of 32 inputs.

In numpy, on blocks that stay in a core's cache, so that threads can round several matrices at once.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .group_quantized import GroupQuantized

GROUP_SIZE = 32

_BLOCK_GROUPS = 2048
_RANGES = (1.0, 0.9)
"""Parts of a group's range that are tried for its 16 steps; what lies outside goes to the outermost ones."""

_REFINEMENTS = 2

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class _Rounded(NamedTuple):
    """`values` (groups, 32), `scales` and `minimums` (groups)."""

    values: _Bytes
    scales: _Floats
    minimums: _Floats


def round_to(weight: torch.Tensor, bits: int) -> GroupQuantized:
    """`weight` (out, in), of any float type, as the nearest `GroupQuantized` of `bits` that is found.

    8 bits: symmetric, from the largest absolute value of each group. 4 bits: asymmetric; values and the scale and
    minimum with the least squared error for them take turns, from the best of several ranges. For normal and
    heavy-tailed weights the error (root mean square) is 0.92 to 0.93 of what the smallest and largest value give,
    of which two ranges are 0.945 and two turns the rest; seven ranges without turns are 0.935.

    `in` must be a multiple of 32.
    """
    out_features, in_features = weight.shape
    assert in_features % GROUP_SIZE == 0, weight.shape
    groups = in_features // GROUP_SIZE
    values = np.empty((out_features * groups, GROUP_SIZE), np.uint8)
    scales, minimums = (np.empty(out_features * groups, np.float32) for _ in range(2))
    block_rows = max(1, _BLOCK_GROUPS // groups)
    round_groups = _to_4_bits if bits == 4 else _to_8_bits
    for begin in range(0, out_features, block_rows):
        rows = weight[begin : begin + block_rows].to(torch.float32).numpy().reshape(-1, GROUP_SIZE)
        here = slice(begin * groups, begin * groups + len(rows))
        values[here], scales[here], minimums[here] = round_groups(rows)
    return GroupQuantized(
        values=torch.from_numpy(values.reshape(out_features, in_features)),
        scales=torch.from_numpy(scales.reshape(out_features, groups)),
        minimums=torch.from_numpy(minimums.reshape(out_features, groups)),
        bits=bits,
        group_size=GROUP_SIZE,
    )


def _to_8_bits(x: _Floats) -> _Rounded:
    scales = np.abs(x).max(axis=1) / np.float32(127)
    values = np.rint(x * _inverse(scales)[:, None]) + np.float32(128)
    return _Rounded(values.astype(np.uint8), scales, scales * np.float32(-128))


def _to_4_bits(x: _Floats) -> _Rounded:
    middles = x.mean(axis=1)  # sums of squares lose fewer digits around it
    x = x - middles[:, None]
    low, high = x.min(axis=1), x.max(axis=1)
    best_gain = np.full(len(x), -np.inf, np.float32)
    best_scales, best_minimums = np.zeros_like(low), np.zeros_like(low)
    for part in _RANGES:
        begin = low + (high - low) * np.float32((1 - part) / 2)
        values = _steps(x, (high - low) * np.float32(part / 15), begin)
        scales, minimums, gain = _least_squares(x, values)
        better = gain > best_gain
        best_gain[better] = gain[better]
        best_scales[better], best_minimums[better] = scales[better], minimums[better]
    for _ in range(_REFINEMENTS):
        best_scales, best_minimums, _ = _least_squares(x, _steps(x, best_scales, best_minimums))
    values = _steps(x, best_scales, best_minimums)
    return _Rounded(values.astype(np.uint8), best_scales, best_minimums + middles)


def _steps(x: _Floats, scales: _Floats, minimums: _Floats) -> _Floats:
    """The nearest of 16 values for each x, as whole floats."""
    values = x - minimums[:, None]
    values *= _inverse(scales)[:, None]
    np.rint(values, out=values)
    return np.clip(values, 0, 15, out=values)


def _least_squares(x: _Floats, values: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Scale and minimum that bring `values` nearest to `x`, whose groups have mean 0; and by how much.

    The squared error is sum(x²) less the gain.
    """
    count = np.float32(GROUP_SIZE)
    means = values.sum(axis=1) / count
    products = np.einsum("ij,ij->i", values, x)
    spreads = np.einsum("ij,ij->i", values, values) - count * means * means
    scales = products * _inverse(spreads)
    return scales, -scales * means, scales * products


def _inverse(x: _Floats) -> _Floats:
    """1 / x, and 0 for what is not above 0 or too small to have an inverse."""
    tiny = np.finfo(np.float32).tiny
    return np.where(x > tiny, np.float32(1) / np.maximum(x, tiny), np.float32(0)).astype(np.float32, copy=False)
