"""Models from disk: safetensors folders, GGUF files, aliases and Hugging Face ids."""

from .aliases import ALIASES, ModelAlias
from .checkpoint import Checkpoint
from .open import open_checkpoint
from .pull import cached, pull
from .resolve import LocalModel, resolve

__all__ = ["ALIASES", "Checkpoint", "LocalModel", "ModelAlias", "cached", "open_checkpoint", "pull", "resolve"]
