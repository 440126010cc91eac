"""Qwen2 and Qwen2.5: biases on queries, keys and values; windows, if any, in the upper layers."""

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.model_config import LayerConfig, ModelConfig

from .common import layer_count, read_common, windowed_layers

_MAX_WINDOW_LAYERS = 28


def read_qwen2(config: HFConfig) -> ModelConfig:
    """`Qwen2ForCausalLM`."""
    return read_common(config, qkv_bias=True, layers=qwen_layers(config))


def qwen_layers(config: HFConfig) -> tuple[LayerConfig, ...]:
    """Layers from `max_window_layers` on have a window, if the model uses them at all."""
    first = config.value("max_window_layers", int, _MAX_WINDOW_LAYERS)
    windowed = windowed_layers(config, [index >= first for index in range(layer_count(config))])
    window = config.window() if config.flag("use_sliding_window") else None
    return tuple(LayerConfig(window=window if local else None) for local in windowed)
