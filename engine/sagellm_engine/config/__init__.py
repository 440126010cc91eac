"""What a model is made of: `ModelConfig`, and how to read it from a Hugging Face `config.json`."""

from .families import SUPPORTED_ARCHITECTURES, read_hf_config
from .model_config import ExpertsConfig, LayerConfig, ModelConfig
from .rope import LinearScaling, Llama3Scaling, LongRopeScaling, Rope, RopeScaling, YarnScaling

__all__ = [
    "SUPPORTED_ARCHITECTURES",
    "ExpertsConfig",
    "LayerConfig",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "ModelConfig",
    "Rope",
    "RopeScaling",
    "YarnScaling",
    "read_hf_config",
]
