"""Gemma 2: norms on both sides, softcaps, and a sliding window in every other layer."""

from typing import Any

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import LayerConfig, ModelConfig
from sagellm_schemas import ModelLoadError

from .common import layer_count, read_activation, read_common, windowed_layers

_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def read_gemma2(config: HFConfig) -> ModelConfig:
    """`Gemma2ForCausalLM`."""
    config = config.with_defaults(**_DEFAULTS)
    windowed = windowed_layers(config, [index % 2 == 0 for index in range(layer_count(config))])
    window = config.window()
    return read_common(
        config,
        layers=tuple(LayerConfig(window=window if local else None) for local in windowed),
        attention_softcap=softcap(config, "attn_logit_softcapping"),
        **gemma_options(config),
    )


def gemma_options(config: HFConfig) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common.

    Raises:
        ModelLoadError: tokens attend to those after them, as in models that embed text.
    """
    if config.flag("use_bidirectional_attention"):
        raise ModelLoadError("the model config has use_bidirectional_attention, which is not supported")
    bias = config.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "attention_out_bias": bias,
        "activation": read_activation(config, "hidden_activation"),
        "attention_scale": config.positive("query_pre_attn_scalar") ** -0.5,
        "post_norms": True,
        "norm_offset": 1.0,
        "embedding_scale": config.size("hidden_size") ** 0.5,
        "logit_softcap": softcap(config, "final_logit_softcapping"),
    }


def softcap(config: HFConfig, key: str) -> float | None:
    """The softcap that `key` gives, if any."""
    return config.positive(key) if config.has(key) else None
