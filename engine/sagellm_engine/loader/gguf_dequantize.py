"""GGUF tensor data to numbers, for the kinds that are not kept quantized."""

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

_STORED_AS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


def supported(kind: GGMLQuantizationType) -> bool:
    """Whether `dequantize` can read `kind`."""
    if kind in _STORED_AS:
        return True
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def dequantize(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> torch.Tensor:
    """The values of `raw`, which has the rows of the tensor as bytes, shape (..., bytes per row).

    F32, F16 and BF16 keep their type and share memory with `raw`; everything else becomes float32.
    """
    if kind in _STORED_AS:
        return torch.from_numpy(raw).view(_STORED_AS[kind])
    with np.errstate(all="ignore"):  # scales of damaged data may be infinite; the engine sees NaN, not a warning
        return torch.from_numpy(quants.dequantize(raw, kind))
