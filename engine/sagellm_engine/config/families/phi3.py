"""Phi-3, 3.5, 4 and 4-mini: Llama with fused projections, and LongRoPE over a part of each head."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.hf_rope import read_rope, rope_parameters
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import head_size, layer_count, read_common


def read_phi3(config: HFConfig) -> ModelConfig:
    """`Phi3ForCausalLM`."""
    config = config.with_defaults(original_max_position_embeddings=4096)
    parameters = rope_parameters(config)
    if "yarn" in (parameters.get("rope_type"), parameters.get("type")):  # what the first models called LongRoPE
        parameters = parameters | {"rope_type": "longrope"}
    return read_common(
        config,
        fused=True,
        layers=(LayerConfig(window=config.window()),) * layer_count(config),
        ropes=(read_rope(config, parameters, head_size(config), partial=True),),
    )
