"""Mistral: Llama with a sliding window in every layer, in the first of them."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import layer_count, read_common


def read_mistral(config: HFConfig) -> ModelConfig:
    """`MistralForCausalLM`."""
    config = config.with_defaults(sliding_window=4096)
    return read_common(config, layers=(LayerConfig(window=config.window()),) * layer_count(config))
