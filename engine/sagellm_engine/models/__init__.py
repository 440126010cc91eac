"""Model families."""

from .llama import Llama

__all__ = ["Llama"]
