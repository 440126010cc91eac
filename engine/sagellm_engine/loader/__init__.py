"""Models from disk: safetensors folders, GGUF files, aliases and Hugging Face ids."""

from .checkpoint import Checkpoint
from .open import open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
