"""LoRA adapters: low-rank changes to a model's products, chosen per request."""

from .adapter import Adapter, LowRank, ProductKind
from .load import load_adapter

__all__ = ["Adapter", "LowRank", "ProductKind", "load_adapter"]
