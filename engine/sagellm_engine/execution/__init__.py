"""Executors: what computes a `Decoder` on a device."""

from .executor import Executor, Packer, Weight
from .span import Span

__all__ = ["Executor", "Packer", "Span", "Weight"]
