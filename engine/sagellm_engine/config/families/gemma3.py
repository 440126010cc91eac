"""Gemma 3: five layers with a sliding window and a rotary embedding of their own for each one that sees all."""

from typing import Any

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.hf_rope import read_rope, rope_parameters
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import head_size, layer_count, read_common, windowed_layers
from .gemma2 import gemma_options

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
"""Those of transformers: checkpoints that also see list only what differs from them."""

_GLOBAL, _LOCAL = 0, 1


def read_gemma3(config: HFConfig) -> ModelConfig:
    """`Gemma3ForCausalLM`, and what reads and writes text of `Gemma3ForConditionalGeneration`."""
    config = config.with_defaults(**_DEFAULTS)
    every = config.size("sliding_window_pattern")
    windowed = windowed_layers(config, [(index + 1) % every != 0 for index in range(layer_count(config))])
    window, head_dim = config.window(), head_size(config)
    everywhere, by_type = _parameters(config)
    local_theta = {"rope_theta": config.positive("rope_local_base_freq")}
    return read_common(
        config,
        layers=tuple(
            LayerConfig(window=window, rope=_LOCAL) if local else LayerConfig(rope=_GLOBAL) for local in windowed
        ),
        ropes=(
            read_rope(config, by_type.get("full_attention", everywhere), head_dim),
            read_rope(config, local_theta | by_type.get("sliding_attention", {}), head_dim),
        ),
        qk_norm=True,
        **gemma_options(config),
    )


def _parameters(config: HFConfig) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Rotary parameters of the layers that see all, as older configs give them, or those of each type of layer."""
    parameters = rope_parameters(config)
    by_type = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    return {} if by_type else parameters, by_type
