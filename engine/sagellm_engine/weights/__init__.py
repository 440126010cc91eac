"""Weights as they are kept: plain tensors, and quantized ones in one common form."""

from .group_quantized import GroupQuantized, Weight, packed_bits

__all__ = ["GroupQuantized", "Weight", "packed_bits"]
