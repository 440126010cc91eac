"""GGUF tensor data to numbers.

In numpy, which computes in the calling thread: torch would meet its other threads at a barrier after each of
thousands of small steps, which takes seconds on a busy machine.

Block layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from collections.abc import Callable

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_STORED_AS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


def supported(kind: GGMLQuantizationType) -> bool:
    """Whether `dequantize` can read `kind`."""
    if kind in _STORED_AS or kind in _FAST:
        return True
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def dequantize(raw: Bytes, kind: GGMLQuantizationType) -> torch.Tensor:
    """The values of `raw`, which has the rows of the tensor as bytes, shape (..., bytes per row).

    F32, F16 and BF16 keep their type and share memory with `raw`; everything else becomes float32.
    """
    if kind in _STORED_AS:
        return torch.from_numpy(raw).view(_STORED_AS[kind])
    with np.errstate(all="ignore"):  # scales of damaged data may be infinite; the engine sees NaN, not a warning
        if kind not in _FAST:
            return torch.from_numpy(quants.dequantize(raw, kind))
        values = _FAST[kind](raw.reshape(-1, GGML_QUANT_SIZES[kind][1]))
    return torch.from_numpy(values.reshape(*raw.shape[:-1], -1))


# The functions below are several times faster than the gguf package's, for the types most files are in. All take
# blocks of 32 values, shape (blocks, bytes per block), and give float32 of shape (blocks, 32).


def _q4_0(blocks: Bytes) -> Floats:
    values = _nibbles(blocks[:, 2:])
    values -= 8
    values *= _halves(blocks[:, :2])
    return values


def _q4_1(blocks: Bytes) -> Floats:
    scale_and_minimum = _halves(blocks[:, :4])
    values = _nibbles(blocks[:, 4:])
    values *= scale_and_minimum[:, :1]
    values += scale_and_minimum[:, 1:]
    return values


def _q8_0(blocks: Bytes) -> Floats:
    values = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)
    values *= _halves(blocks[:, :2])
    return values


def _halves(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _nibbles(data: Bytes) -> Floats:
    """Four-bit numbers: first the low halves of all bytes, then the high ones."""
    data = np.ascontiguousarray(data)
    return np.concatenate((data & 15, data >> 4), axis=1, dtype=np.float32)


_FAST: dict[GGMLQuantizationType, Callable[[Bytes], Floats]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
}
