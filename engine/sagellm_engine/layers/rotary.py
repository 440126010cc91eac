"""Rotary position embeddings (Su et al., 2021) in the half-split layout of Hugging Face, and their scalings."""

import math
from typing import Any

import torch

from sagellm_engine.config import ModelConfig
from sagellm_schemas import ModelLoadError


class RotaryTable:
    """Cosines and sines of every position up to `max_model_len`: `cos` and `sin`, (positions, rotated / 2)."""

    def __init__(self, config: ModelConfig, max_model_len: int) -> None:
        """
        Raises:
            ModelLoadError: the model scales its positions in a way that is not known here.
        """
        angles = torch.outer(torch.arange(max_model_len).float(), inverse_frequencies(config))
        self.cos = angles.cos()
        self.sin = angles.sin()

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `positions`, each (rows, 1, rotated / 2)."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Turn the first `rotated` dimensions of x (rows, heads, head_dim) in place by the angles of its rows."""
    first, second = x[..., : 2 * cos.shape[-1]].chunk(2, dim=-1)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)


def inverse_frequencies(config: ModelConfig) -> torch.Tensor:
    """Angle per position of each of the head_dim / 2 pairs, scaled as the model asks."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    kind = scaling.get("rope_type", "default")
    if kind == "default":
        return frequencies
    try:
        if kind == "linear":
            return frequencies / float(scaling["factor"])
        if kind == "llama3":
            return _llama3(frequencies, scaling)
    except KeyError as error:
        raise ModelLoadError(f"rope scaling {kind!r} lacks {error.args[0]!r} in the model's config") from None
    raise ModelLoadError(f"rope scaling {kind!r} is not supported; supported are default, linear and llama3")


def _llama3(frequencies: torch.Tensor, scaling: dict[str, Any]) -> torch.Tensor:
    """Llama 3.1: divide low frequencies by `factor`, keep high ones, blend between."""
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    context = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(wavelengths > context / low, frequencies / factor, blended)
    return torch.where(wavelengths < context / high, frequencies, scaled)
