"""Mixtral: Mistral with a mixture of experts in every layer."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import layer_count, read_common, read_experts


def read_mixtral(config: HFConfig) -> ModelConfig:
    """`MixtralForCausalLM`."""
    config = config.with_defaults(rope_theta=1e6)
    return read_common(
        config,
        layers=(LayerConfig(window=config.window(), sparse=True),) * layer_count(config),
        experts=read_experts(config, "num_local_experts", "intermediate_size", normalize=True),
    )
