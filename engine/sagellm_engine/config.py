"""What a model is made of, read from a Hugging Face `config.json`."""

from typing import Any, TypeVar

import msgspec

from sagellm_schemas import ModelLoadError

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
"""Names as in `config.json`; Mistral without a sliding window computes what Llama does."""

DTYPES = ("bfloat16", "float16", "float32")

_MAX_LAYERS = 10_000
"""Far above any model; a damaged number must not become a list of a billion tensors to look for."""

T = TypeVar("T")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder-only transformer of the Llama family.

    `rope_scaling` is None for plain rotary embeddings, else a dict that has `rope_type` and the parameters of
    that type. `dtype` is what the checkpoint was saved in, which is a proposal: the engine may compute in another.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    dtype: str

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "ModelConfig":
        """The model that a Hugging Face `config.json` describes, as transformers 4 or 5 writes it.

        Raises:
            ModelLoadError: a key is missing or has the wrong type, the numbers do not fit together, or the
                architecture is not one we run.
        """
        architecture = _architecture(config)
        hidden_size = _size(config, "hidden_size")
        num_heads = _size(config, "num_attention_heads")
        num_kv_heads = _size(config, "num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise ModelLoadError(
                f"the model config has num_attention_heads {num_heads}, which is no multiple of "
                f"num_key_value_heads {num_kv_heads}"
            )
        head_dim = _size(config, "head_dim", hidden_size // num_heads)
        if head_dim % 2:
            raise ModelLoadError(
                f"the model config has head_dim {head_dim}, but rotary embeddings need an even one"
            )
        max_positions = _size(config, "max_position_embeddings")
        _refuse_variants(config, max_positions)
        rope_theta, rope_scaling = _rope(config)
        return cls(
            architecture=architecture,
            vocab_size=_size(config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_size(config, "intermediate_size"),
            num_layers=_size(config, "num_hidden_layers", largest=_MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=_value(config, "rms_norm_eps", float),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            max_position_embeddings=max_positions,
            tie_word_embeddings=_value(config, "tie_word_embeddings", bool, False),
            attention_bias=_value(config, "attention_bias", bool, False),
            mlp_bias=_value(config, "mlp_bias", bool, False),
            dtype=_dtype(config),
        )


def _value(config: dict[str, Any], key: str, kind: type[T], default: T | None = None) -> T:
    """`config[key]` as `kind`; a missing key and null mean `default`, where there is one."""
    value = config.get(key)
    if value is None:
        if default is None:
            raise ModelLoadError(f"the model config has no {key}")
        return default
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        raise ModelLoadError(f"the model config has {key} {value!r}, which is no {kind.__name__}") from None


def _size(config: dict[str, Any], key: str, default: int | None = None, largest: int = 2**31 - 1) -> int:
    value = _value(config, key, int, default)
    if not 1 <= value <= largest:
        raise ModelLoadError(f"the model config has {key} {value}, which must be from 1 to {largest}")
    return value


def _architecture(config: dict[str, Any]) -> str:
    names = _value(config, "architectures", list[str])
    for name in names:
        if name in SUPPORTED_ARCHITECTURES:
            return name
    raise ModelLoadError(
        f"architecture {', '.join(names) or '(none named)'} is not supported; "
        f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
    )


def _refuse_variants(config: dict[str, Any], max_positions: int) -> None:
    """Refuse what would load but give other answers than the model's."""
    activation = _value(config, "hidden_act", str, "silu")
    if activation not in ("silu", "swish"):
        raise ModelLoadError(f"the model config has hidden_act {activation!r}; only 'silu' is supported")
    window = config.get("sliding_window")
    if window is not None and _value(config, "sliding_window", int) < max_positions:
        raise ModelLoadError(f"the model config has sliding_window {window}; only full attention is supported")


def _rope(config: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Base frequency and scaling, from `rope_parameters` (transformers 5) or the two older keys."""
    parameters = _value(config, "rope_parameters", dict, {}) or _value(config, "rope_scaling", dict, {})
    theta = _value({"rope_theta": 10000.0} | _present(config) | _present(parameters), "rope_theta", float)
    if theta <= 0:
        raise ModelLoadError(f"the model config has rope_theta {theta}, which must be above 0")
    rope_type = _value({"rope_type": parameters.get("type")} | parameters, "rope_type", str, "default")
    if rope_type == "default":
        return theta, None
    others = {key: value for key, value in parameters.items() if key not in ("type", "rope_type", "rope_theta")}
    return theta, {"rope_type": rope_type} | others


def _present(mapping: dict[str, Any]) -> dict[str, Any]:
    return {"rope_theta": mapping["rope_theta"]} if mapping.get("rope_theta") is not None else {}


def _dtype(config: dict[str, Any]) -> str:
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    dtype = _value(config, key, str, "float32").removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelLoadError(f"the model config has {key} {dtype!r}; supported are {', '.join(DTYPES)}")
    return dtype
