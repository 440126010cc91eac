"""Model families: from a config and weights to a `Decoder`."""

from .builder import build

__all__ = ["build"]
