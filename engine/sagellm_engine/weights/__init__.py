"""Weights as they are kept: plain tensors, and quantized ones in one common form."""

from .group_quantized import GroupQuantized

__all__ = ["GroupQuantized"]
