"""Executors: what computes a `Decoder` on a device."""

from .executor import Executor, Packer, Scores
from .span import Span

__all__ = ["Executor", "Packer", "Scores", "Span"]
