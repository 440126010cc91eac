"""Model families: from a config and weights to a `Decoder`."""

from .llama import build

__all__ = ["build"]
