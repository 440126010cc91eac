"""Angles per position of a rotary embedding, and how they are stretched to longer contexts.

Each way computes what transformers does, in the same order of operations.
"""

import math

import torch

from sagellm_engine.config import LinearScaling, Llama3Scaling, LongRopeScaling, Rope, YarnScaling


def scaled_frequencies(rope: Rope, longest: int) -> tuple[torch.Tensor, float]:
    """Angle per position of each of the rotated / 2 pairs, and what cosines and sines are multiplied with.

    `longest` is how many tokens a sequence may have. LongRoPE has one set of frequencies for contexts up to the
    original length and one for longer ones. It is chosen here, once for all sequences: choosing by a sequence's
    own length would make every key in its cache wrong when it grows past that length, and its prefix useless to
    others of another length. Short prompts on a model that is served at its full length therefore differ a little
    from transformers, which goes by the length at hand; served at the original length they do not.
    """
    exponents = torch.arange(0, rope.rotated, 2, dtype=torch.int64).float() / rope.rotated
    wavelengths = rope.theta**exponents
    scaling = rope.scaling
    if scaling is None:
        return 1.0 / wavelengths, 1.0
    if isinstance(scaling, LinearScaling):
        return 1.0 / wavelengths / scaling.factor, 1.0
    if isinstance(scaling, Llama3Scaling):
        return _llama3(1.0 / wavelengths, scaling), 1.0
    if isinstance(scaling, YarnScaling):
        return _yarn(wavelengths, rope, scaling), _yarn_attention_factor(scaling)
    is_long = longest > scaling.original_max_position_embeddings
    divisors = torch.tensor(scaling.long_factor if is_long else scaling.short_factor)
    return 1.0 / (divisors * wavelengths), _longrope_attention_factor(scaling)


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    context = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = torch.where(wavelengths > context / low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < context / high, frequencies, scaled)


def _yarn(wavelengths: torch.Tensor, rope: Rope, scaling: YarnScaling) -> torch.Tensor:
    """Keep what turns at least `beta_fast` times in the original context, divide what turns `beta_slow` times."""

    def dimension(turns: float) -> float:
        per_turn = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rope.rotated * math.log(per_turn) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotated - 1)
    width = high - low or 0.001
    divided = ((torch.arange(rope.rotated // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    kept = 1 - divided
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _yarn_attention_factor(scaling: YarnScaling) -> float:
    def of(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return of(scaling.mscale) / of(scaling.mscale_all_dim)
    return of(1.0)


def _longrope_attention_factor(scaling: LongRopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_position_embeddings))
