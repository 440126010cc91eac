"""What all families' configs have in common."""

from typing import Any, Literal

from sagellm_engine.config.hf_config import HFConfig
from sagellm_engine.config.hf_rope import read_rope, rope_parameters
from sagellm_engine.config.model_config import DTYPES, ExpertsConfig, LayerConfig, ModelConfig
from sagellm_schemas import ModelLoadError

_MAX_LAYERS = 10_000
"""Far above any model; a damaged number must not become a list of a billion tensors to look for."""

_MAX_EXPERTS = 10_000

_ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def read_common(config: HFConfig, **special: Any) -> ModelConfig:
    """The config of a model like Llama, with what is `special` about it.

    Raises:
        ModelLoadError: a key is missing or wrong, or the numbers do not fit together.
    """
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    num_kv_heads = config.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ModelLoadError(
            f"the model config has num_attention_heads {num_heads}, which is no multiple of "
            f"num_key_value_heads {num_kv_heads}"
        )
    head_dim = head_size(config)
    shape: dict[str, Any] = {
        "architecture": config.value("architectures", list[str])[0],
        "vocab_size": config.size("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": config.size("intermediate_size"),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": config.value("rms_norm_eps", float),
        "max_position_embeddings": config.size("max_position_embeddings"),
        "tie_word_embeddings": config.flag("tie_word_embeddings"),
        "dtype": _dtype(config),
        "attention_scale": head_dim**-0.5,
    }
    if "activation" not in special:
        shape["activation"] = read_activation(config, "hidden_act")
    if "layers" not in special:
        shape["layers"] = (LayerConfig(),) * layer_count(config)
    if "ropes" not in special:
        shape["ropes"] = (read_rope(config, rope_parameters(config), head_dim),)
    return ModelConfig(**(shape | special))


def layer_count(config: HFConfig) -> int:
    """The number of layers."""
    return config.size("num_hidden_layers", largest=_MAX_LAYERS)


def head_size(config: HFConfig) -> int:
    """Dimensions of a head: an even number, for they are rotated in pairs."""
    share = config.size("hidden_size") // config.size("num_attention_heads")
    head_dim = config.size("head_dim", share)
    if head_dim % 2:
        raise ModelLoadError(f"the model config has head_dim {head_dim}, but rotary embeddings need an even one")
    return head_dim


def windowed_layers(config: HFConfig, by_default: list[bool]) -> list[bool]:
    """Whether each layer has a sliding window: as `layer_types` says or, in older configs, `by_default`."""
    if not config.has("layer_types"):
        return by_default
    types = config.value("layer_types", list[str])
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ModelLoadError(f"layers of type {', '.join(sorted(unknown))} are not supported")
    if len(types) != len(by_default):
        raise ModelLoadError(f"the model config has {len(by_default)} layers, but {len(types)} layer_types")
    return [kind == "sliding_attention" for kind in types]


def read_experts(config: HFConfig, count: str, intermediate_size: str, *, normalize: bool) -> ExpertsConfig:
    """The experts of a mixture; `count` and `intermediate_size` are the keys of these."""
    experts = ExpertsConfig(
        count=config.size(count, largest=_MAX_EXPERTS),
        per_token=config.size("num_experts_per_tok"),
        intermediate_size=config.size(intermediate_size),
        normalize=normalize,
    )
    if experts.per_token > experts.count:
        raise ModelLoadError(
            f"the model config has num_experts_per_tok {experts.per_token}, but {count} {experts.count}"
        )
    return experts


def read_activation(config: HFConfig, key: str) -> Literal["silu", "gelu_tanh"]:
    """The activation of feed-forward layers that `key` names."""
    name = config.value(key, str, "silu")
    if name not in _ACTIVATIONS:
        raise ModelLoadError(
            f"the model config has {key} {name!r}, which is not supported; supported are {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _dtype(config: HFConfig) -> str:
    key = "dtype" if config.has("dtype") else "torch_dtype"
    dtype = config.value(key, str, "float32").removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelLoadError(f"the model config has {key} {dtype!r}; supported are {', '.join(DTYPES)}")
    return dtype
