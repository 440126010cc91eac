"""Rotary scaling that a GGUF file keeps as a tensor instead of as metadata."""

import math
from typing import Any

import torch

from sagellm_schemas import ModelLoadError

_ORIGINAL_POSITIONS = 8192
_LOW, _HIGH = 1.0, 4.0


def llama3_scaling(divisors: torch.Tensor, theta: float, file: str) -> dict[str, Any] | None:
    """The Llama 3.1 scaling whose frequency divisors these are, shape (head_dim / 2,); None if they are all 1.

    Converters keep only the divisors. Of the four parameters behind them every Llama 3 model has the same three,
    so the fourth is the largest divisor; computing them again shows whether that was right.

    Raises:
        ModelLoadError: no such parameters give these divisors.
    """
    factor = float(divisors.max())
    if torch.all(divisors == 1):
        return None
    pairs = divisors.numel()
    wavelengths = 2 * math.pi * theta ** (torch.arange(pairs, dtype=torch.float64) / pairs)
    kept = ((_ORIGINAL_POSITIONS / wavelengths - _LOW) / (_HIGH - _LOW)).clamp(0, 1)
    expected = 1 / ((1 - kept) / factor + kept)
    if not torch.allclose(divisors.double(), expected, rtol=1e-3):
        raise ModelLoadError(f"{file} has rotary factors that are not Llama 3's, which is not supported")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL_POSITIONS,
    }
