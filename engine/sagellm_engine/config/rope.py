"""How a model tells positions: rotary embeddings and the ways to stretch them over longer contexts."""

from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Length = Annotated[float, msgspec.Meta(gt=1)]
"""Tokens of a context: formulas divide by its logarithm."""


class LinearScaling(msgspec.Struct, frozen=True, kw_only=True, tag_field="rope_type", tag="linear"):
    """Every position counts for 1 / factor."""

    factor: Positive


class Llama3Scaling(msgspec.Struct, frozen=True, kw_only=True, tag_field="rope_type", tag="llama3"):
    """Llama 3.1: low frequencies are divided by `factor`, high ones are kept, and those between are blended."""

    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Length


class YarnScaling(msgspec.Struct, frozen=True, kw_only=True, tag_field="rope_type", tag="yarn"):
    """YaRN (Peng et al., 2023, arXiv 2309.00071); `attention_factor` multiplies cosines and sines."""

    factor: Positive
    original_max_position_embeddings: Length
    attention_factor: Positive | None = None
    beta_fast: Positive = 32.0
    beta_slow: Positive = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class LongRopeScaling(msgspec.Struct, frozen=True, kw_only=True, tag_field="rope_type", tag="longrope"):
    """LongRoPE (Ding et al., 2024, arXiv 2402.13753): divisors of frequencies, for short and for long contexts.

    Long are those beyond `original_max_position_embeddings`. `attention_factor` multiplies cosines and sines.
    """

    short_factor: tuple[Positive, ...]
    long_factor: tuple[Positive, ...]
    factor: Positive
    original_max_position_embeddings: Length
    attention_factor: Positive | None = None


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """One rotary embedding: the first `rotated` dimensions of each head, at base frequency `theta`."""

    theta: float
    rotated: int
    scaling: RopeScaling | None = None
