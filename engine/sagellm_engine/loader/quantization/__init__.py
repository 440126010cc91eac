"""Checkpoints that others have quantized: GPTQ, AWQ and compressed-tensors."""

from .detect import read_scheme
from .scheme import Scheme, Source, StoredTensor

__all__ = ["Scheme", "Source", "StoredTensor", "read_scheme"]
