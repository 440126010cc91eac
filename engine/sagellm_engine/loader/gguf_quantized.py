"""GGUF blocks as they are: the whole numbers of a file with their scales and minimums, nothing rounded anew.

In numpy, which computes in the calling thread: torch would meet its other threads at a barrier after each of
thousands of small steps, which takes seconds on a busy machine.

Block layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from sagellm_engine import weights
from sagellm_engine.weights import GroupQuantized

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class _Blocks(NamedTuple):
    """`values` (blocks, values of a block); `scales` and `minimums` (blocks, groups of a block)."""

    values: Bytes
    scales: Floats
    minimums: Floats


class _Kind(NamedTuple):
    bits: int
    group_size: int
    read: Callable[[Bytes], _Blocks]


def kept_quantized(kind: GGMLQuantizationType) -> bool:
    """Whether `read_quantized` can read `kind`; 5- and 6-bit values are kept in 8 bits."""
    return kind in _KINDS


def packed_bits(kind: GGMLQuantizationType) -> float | None:
    """Bits that a weight of `kind` takes once it is packed; None for a kind that is not kept quantized."""
    found = _KINDS.get(kind)
    return None if found is None else weights.packed_bits(found.bits, found.group_size)


def read_quantized(raw: Bytes, kind: GGMLQuantizationType) -> GroupQuantized:
    """The matrix whose rows are the bytes `raw`, shape (out, bytes per row).

    Its weights are, to the last bit, those that the gguf package's dequantization gives: where a format subtracts
    a constant before it multiplies, both products are exact in float32.
    """
    bits, group_size, read = _KINDS[kind]
    with np.errstate(all="ignore"):  # scales of damaged data may be infinite; the engine sees NaN, not a warning
        blocks = read(raw.reshape(-1, GGML_QUANT_SIZES[kind][1]))
    values, scales, minimums = (torch.from_numpy(array.reshape(len(raw), -1)) for array in blocks)
    return GroupQuantized(values, scales, minimums, bits=bits, group_size=group_size)


def _q4_0(blocks: Bytes) -> _Blocks:
    scales = _halves(blocks[:, :2])
    return _Blocks(_nibbles(blocks[:, 2:]), scales, scales * -8)


def _q4_1(blocks: Bytes) -> _Blocks:
    return _Blocks(_nibbles(blocks[:, 4:]), _halves(blocks[:, :2]), _halves(blocks[:, 2:4]))


def _q5_0(blocks: Bytes) -> _Blocks:
    scales = _halves(blocks[:, :2])
    return _Blocks(_fifth_bits(_nibbles(blocks[:, 6:]), blocks[:, 2:6]), scales, scales * -16)


def _q5_1(blocks: Bytes) -> _Blocks:
    values = _fifth_bits(_nibbles(blocks[:, 8:]), blocks[:, 4:8])
    return _Blocks(values, _halves(blocks[:, :2]), _halves(blocks[:, 2:4]))


def _q8_0(blocks: Bytes) -> _Blocks:
    scales = _halves(blocks[:, :2])
    return _Blocks(blocks[:, 2:] ^ np.uint8(128), scales, scales * -128)  # adds 128 to signed bytes


def _q4_k(blocks: Bytes) -> _Blocks:
    return _Blocks(_nibbles(blocks[:, 16:], run=32), *_k_scales(blocks))


def _q5_k(blocks: Bytes) -> _Blocks:
    values = _nibbles(blocks[:, 48:], run=32)
    fifths = np.ascontiguousarray(blocks[:, 16:48])
    for group in range(8):  # bit g of byte i belongs to value i of group g
        values[:, 32 * group : 32 * (group + 1)] |= ((fifths >> group) & 1) << 4
    return _Blocks(values, *_k_scales(blocks))


def _q6_k(blocks: Bytes) -> _Blocks:
    values = _nibbles(blocks[:, :128], run=64)
    highs = blocks[:, 128:192]
    for half in range(2):
        pairs = np.ascontiguousarray(highs[:, 32 * half : 32 * (half + 1)])
        for place in range(4):
            begin = 128 * half + 32 * place
            values[:, begin : begin + 32] |= ((pairs >> (2 * place)) & 3) << 4
    scales = _halves(blocks[:, 208:]) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _Blocks(values, scales, scales * -32)


def _halves(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _nibbles(data: Bytes, run: int = 16) -> Bytes:
    """Four-bit numbers: of each `run` bytes first all low halves, then the high ones."""
    runs = np.ascontiguousarray(data).reshape(len(data), -1, 1, run)
    values = np.empty((*runs.shape[:2], 2, run), np.uint8)
    np.bitwise_and(runs[:, :, 0], 15, out=values[:, :, 0])
    np.right_shift(runs[:, :, 0], 4, out=values[:, :, 1])
    return values.reshape(len(data), -1)


def _fifth_bits(values: Bytes, bits: Bytes) -> Bytes:
    """`values` with bit 4 from `bits`, of which each block has 32 in order."""
    values |= np.unpackbits(np.ascontiguousarray(bits), axis=1, bitorder="little") << 4
    return values


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """Scales and minimums of the eight groups of Q4_K and Q5_K: 6-bit factors of the block's two halves."""
    packed = np.ascontiguousarray(blocks[:, 4:16])
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    factors = np.concatenate((first & 63, (third & 15) | ((first >> 2) & 48)), axis=1)
    minimums = np.concatenate((second & 63, (third >> 4) | ((second >> 2) & 48)), axis=1)
    return _halves(blocks[:, :2]) * factors, -(_halves(blocks[:, 2:4]) * minimums)


_KINDS = {
    GGMLQuantizationType.Q4_0: _Kind(4, 32, _q4_0),
    GGMLQuantizationType.Q4_1: _Kind(4, 32, _q4_1),
    GGMLQuantizationType.Q4_K: _Kind(4, 32, _q4_k),
    GGMLQuantizationType.Q5_0: _Kind(8, 32, _q5_0),
    GGMLQuantizationType.Q5_1: _Kind(8, 32, _q5_1),
    GGMLQuantizationType.Q5_K: _Kind(8, 32, _q5_k),
    GGMLQuantizationType.Q6_K: _Kind(8, 16, _q6_k),
    GGMLQuantizationType.Q8_0: _Kind(8, 32, _q8_0),
}
