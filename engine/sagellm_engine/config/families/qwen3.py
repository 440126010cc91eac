"""Qwen3: a norm on each head of queries and keys instead of Qwen2's biases."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import ModelConfig

from .common import read_common
from .qwen2 import qwen_layers


def read_qwen3(config: HFConfig) -> ModelConfig:
    """`Qwen3ForCausalLM`."""
    bias = config.flag("attention_bias")
    return read_common(
        config.with_defaults(head_dim=128),
        qk_norm=True,
        qkv_bias=bias,
        attention_out_bias=bias,
        layers=qwen_layers(config),
    )
