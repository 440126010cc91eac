"""Llama 2 and 3, and the many models that are saved as one."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import ModelConfig

from .common import read_common


def read_llama(config: HFConfig) -> ModelConfig:
    """`LlamaForCausalLM`."""
    bias = config.flag("attention_bias")
    return read_common(config, qkv_bias=bias, attention_out_bias=bias, mlp_bias=config.flag("mlp_bias"))
