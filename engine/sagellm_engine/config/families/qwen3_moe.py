"""Qwen3-MoE: Qwen3 with mixtures of experts, in every layer or every few."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import layer_count, read_common, read_experts


def read_qwen3_moe(config: HFConfig) -> ModelConfig:
    """`Qwen3MoeForCausalLM`."""
    bias = config.flag("attention_bias")
    count = "num_experts" if config.has("num_experts") else "num_local_experts"  # the latter: transformers 5
    return read_common(
        config,
        qk_norm=True,
        qkv_bias=bias,
        attention_out_bias=bias,
        layers=_layers(config),
        experts=read_experts(config, count, "moe_intermediate_size", normalize=config.flag("norm_topk_prob")),
    )


def _layers(config: HFConfig) -> tuple[LayerConfig, ...]:
    step = config.size("decoder_sparse_step", 1)
    dense = set(config.value("mlp_only_layers", list[int], []))
    window = config.window() if config.flag("use_sliding_window") else None
    return tuple(
        LayerConfig(window=window, sparse=(index + 1) % step == 0 and index not in dense)
        for index in range(layer_count(config))
    )
