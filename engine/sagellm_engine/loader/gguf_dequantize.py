"""GGUF tensor data to torch tensors.

Block layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from collections.abc import Callable

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

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


def dequantize(raw: torch.Tensor, kind: GGMLQuantizationType) -> torch.Tensor:
    """The values of `raw`, which has the rows of the tensor as bytes, shape (..., bytes per row).

    F32, F16 and BF16 keep their type and share memory with `raw`; everything else becomes float32.
    """
    if kind in _STORED_AS:
        return raw.view(_STORED_AS[kind])
    if kind not in _FAST:
        return torch.from_numpy(quants.dequantize(raw.numpy(), kind))
    values = _FAST[kind](raw.reshape(-1, GGML_QUANT_SIZES[kind][1]))
    return values.view(*raw.shape[:-1], -1)


# The functions below are several times faster than the gguf package's, for the types most files are in. All take
# blocks of 32 values, shape (blocks, bytes per block), and give float32 of shape (blocks, 32).


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks[:, 2:]).sub_(8).mul_(_halves(blocks[:, :2]))


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    scale_and_minimum = _halves(blocks[:, :4])
    return _nibbles(blocks[:, 4:]).mul_(scale_and_minimum[:, :1]).add_(scale_and_minimum[:, 1:])


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(_halves(blocks[:, :2]))


def _halves(data: torch.Tensor) -> torch.Tensor:
    return data.contiguous().view(torch.float16).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Four-bit numbers: first the low halves of all bytes, then the high ones."""
    data = data.contiguous()
    return torch.cat((data & 15, data >> 4), dim=1).float()


_FAST: dict[GGMLQuantizationType, Callable[[torch.Tensor], torch.Tensor]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
}
