"""From a Hugging Face `config.json` to a `ModelShape`: dense, mixture-of-experts and latent-attention models."""

from typing import Any

from sagellm_schemas import ModelLoadError

from .model_shape import Experts, LatentAttention, ModelShape
from .precision import PRECISIONS

_UNGATED = frozenset(
    {"gpt2", "gpt_neox", "gpt_bigcode", "opt", "falcon", "bloom", "phi", "mpt", "starcoder2", "gptj"}
)
_DTYPES = {"float": "float32", "half": "float16"}
_LARGEST = 1 << 40

Config = dict[str, Any]


def shape_from_hf(config: Config, name: str) -> ModelShape:
    """The shape that `config` describes.

    Raises:
        ModelLoadError: it is no decoder-only transformer, or a number is missing or wrong.
    """
    if not isinstance(config, dict):
        raise ModelLoadError(f"the config of {name} is not a JSON object")
    quantization = config.get("quantization_config")
    text = config.get("text_config")
    if isinstance(text, dict):  # a model that also sees: what generates is the text part
        config = config | text
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(f"{name} is an encoder-decoder model; only decoder-only models can be planned")
    hidden = _size(config, name, "hidden_size", "n_embd", "d_model")
    heads = _size(config, name, "num_attention_heads", "n_head", "n_heads")
    layers = _size(config, name, "num_hidden_layers", "n_layer", "n_layers")
    experts = _experts(config, name, layers)
    fallback = experts.intermediate_size if experts else 4 * hidden
    return ModelShape(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=_kv_heads(config, name, heads),
        head_dim=_size(config, name, "head_dim", default=max(1, hidden // heads)),
        intermediate_size=_size(config, name, "intermediate_size", "n_inner", "ffn_dim", default=fallback),
        vocab_size=_size(config, name, "vocab_size"),
        max_positions=_size(config, name, "max_position_embeddings", "n_positions", "seq_length", default=2048),
        gated=config.get("model_type") not in _UNGATED,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype=_dtype(config, quantization),
        experts=experts,
        latent=_latent(config, name),
    )


def _kv_heads(config: Config, name: str, heads: int) -> int:
    if config.get("multi_query") is True and "num_key_value_heads" not in config:
        return 1
    kv_heads = _size(config, name, "num_key_value_heads", "num_kv_heads", default=heads)
    if heads % kv_heads and not config.get("kv_lora_rank"):
        raise ModelLoadError(f"the config of {name}: {heads} heads are no multiple of {kv_heads} key-value heads")
    return kv_heads


def _experts(config: Config, name: str, layers: int) -> Experts | None:
    count = _size(
        config, name, "n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts", default=1
    )
    if count < 2:
        return None
    per_token = _size(config, name, "num_experts_per_tok", "experts_per_token", "moe_top_k", "moe_topk")
    if per_token > count:
        raise ModelLoadError(f"the config of {name}: a token cannot visit {per_token} of {count} experts")
    width = _size(config, name, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    shared = _size(config, name, "shared_expert_intermediate_size", default=0, least=0)
    shared += _size(config, name, "n_shared_experts", default=0, least=0) * width
    return Experts(
        count=count,
        per_token=per_token,
        intermediate_size=width,
        layers=_expert_layers(config, name, layers),
        shared_intermediate_size=shared,
    )


def _expert_layers(config: Config, name: str, layers: int) -> int:
    """How many layers have experts: DeepSeek's first are dense, Qwen's may be every so many or named."""
    first = _size(config, name, "first_k_dense_replace", default=0, least=0)
    every = _size(config, name, "moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", default=1)
    named = config.get("mlp_only_layers") or []
    dense = set(named) if isinstance(named, list) else set()
    if config.get("moe_layer_freq") is not None:
        sparse = [layer for layer in range(first, layers) if layer % every == 0]
    else:
        sparse = [layer for layer in range(first, layers) if (layer + 1) % every == 0]
    found = sum(layer not in dense for layer in sparse)
    if not found:
        raise ModelLoadError(f"the config of {name} has experts, but no layer that uses them")
    return found


def _latent(config: Config, name: str) -> LatentAttention | None:
    if not config.get("kv_lora_rank"):
        return None
    return LatentAttention(
        kv_rank=_size(config, name, "kv_lora_rank"),
        rope_dim=_size(config, name, "qk_rope_head_dim"),
        nope_dim=_size(config, name, "qk_nope_head_dim"),
        v_dim=_size(config, name, "v_head_dim"),
        q_rank=_size(config, name, "q_lora_rank", default=0, least=0),
    )


def _dtype(config: Config, quantization: object) -> str:
    if isinstance(quantization, dict):
        method = str(quantization.get("quant_method", ""))
        bits = quantization.get("bits") or quantization.get("weight_bits")
        if method in ("awq", "gptq", "mxfp4") or bits == 4 or quantization.get("load_in_4bit"):
            return "int8" if bits == 8 else "int4"
        if "fp8" in method:
            return "fp8"
        if bits == 8 or quantization.get("load_in_8bit"):
            return "int8"
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    dtype = _DTYPES.get(dtype, dtype)
    return dtype if dtype in PRECISIONS else "bfloat16"


def _size(config: Config, name: str, *keys: str, default: int | None = None, least: int = 1) -> int:
    """The first of `keys` that is there."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
            raise ModelLoadError(
                f"the config of {name}: {key} must be a whole number of at least {least}; got {value!r}"
            )
        return value
    if default is None:
        raise ModelLoadError(f"the config of {name} has no {' or '.join(keys)}; is it a decoder-only transformer?")
    return default
