"""LoRA adapters: low-rank changes to a model's products, chosen per request."""

from .adapter import Adapter, LowRank, ProductKind

__all__ = ["Adapter", "LowRank", "ProductKind"]
