"""A GGUF file's metadata as a model config: first as the keys of a Hugging Face one, then read like that."""

from collections.abc import Callable
from typing import Any

import msgspec
from gguf.constants import GGMLQuantizationType

from sagellm_engine.config import ModelConfig, read_hf_config
from sagellm_engine.config.families.common import head_size
from sagellm_engine.config.hf_config import HFConfig
from sagellm_schemas import ModelLoadError

from .gguf_header import GgufHeader

_DTYPES = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.F16: "float16"}
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Gemma's largest models scale attention by another number of dimensions than a head has."""

Values = dict[str, Any]
Get = Callable[[str], Any]
"""The metadata of a key, without the architecture before it; None if there is none."""


def read_config(header: GgufHeader, rope_scaling: Values | None, file: str) -> ModelConfig:
    """The config of the model in a GGUF file; `file` names it in errors.

    `rope_scaling` replaces the metadata's, for models whose scaling is in tensors of the file.

    Raises:
        ModelLoadError: the architecture is not one we run, or a key is missing or wrong.
    """
    metadata = header.metadata
    name = str(metadata.get("general.architecture"))
    if name not in _ARCHITECTURES:
        raise ModelLoadError(
            f"{file} has the architecture {name!r}, which is not supported; "
            f"supported are {', '.join(_ARCHITECTURES)}"
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelLoadError(f"{file} is one part of a split GGUF; merge the parts with llama-gguf-split --merge")
    if "token_embd.weight" not in header.tensors:
        raise ModelLoadError(f"{file} has no tensor token_embd.weight")

    def get(key: str) -> Any:
        return metadata.get(f"{name}.{key}")

    common = _common(header, name, file) | {"rope_scaling": rope_scaling or _rope_scaling(get)}
    try:
        read = read_hf_config(_present(common) | _ARCHITECTURES[name](get, common))
    except ModelLoadError as error:
        raise ModelLoadError(f"{file}: {error.message}") from None
    rotated = metadata.get(f"{name}.rope.dimension_count", read.ropes[0].rotated)
    if rotated != read.ropes[0].rotated:
        raise ModelLoadError(
            f"{file} rotates {rotated} of {read.head_dim} dimensions of a head, which is not supported"
        )
    return _amended(read, name)


def _common(header: GgufHeader, name: str, file: str) -> Values:
    metadata, tensors = header.metadata, header.tensors

    def need(key: str) -> Any:
        if f"{name}.{key}" not in metadata:
            raise ModelLoadError(f"{file} has no metadata {name}.{key}")
        return metadata[f"{name}.{key}"]

    queries = tensors.get("blk.0.attn_q.weight") or tensors.get("blk.0.attn_qkv.weight")
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": need("embedding_length"),
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": need("attention.head_count"),
        "num_key_value_heads": metadata.get(f"{name}.attention.head_count_kv"),
        "head_dim": metadata.get(f"{name}.attention.key_length"),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get(f"{name}.rope.freq_base"),
        "max_position_embeddings": need("context_length"),
        "original_max_position_embeddings": metadata.get(f"{name}.rope.scaling.original_context_length"),
        "sliding_window": metadata.get(f"{name}.attention.sliding_window") or None,
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "dtype": _DTYPES.get(queries.kind, "bfloat16") if queries else "bfloat16",
    }


def _llama(get: Get, common: Values) -> Values:
    """Llama, Mistral and Mixtral share a name."""
    if get("expert_count"):
        return {
            "architectures": ["MixtralForCausalLM"],
            "rope_theta": common["rope_theta"] or 1e4,
            "num_local_experts": get("expert_count"),
            "num_experts_per_tok": get("expert_used_count"),
        }
    windowed = common["sliding_window"] is not None
    return {"architectures": ["MistralForCausalLM" if windowed else "LlamaForCausalLM"]}


def _qwen2(get: Get, common: Values) -> Values:
    return {"architectures": ["Qwen2ForCausalLM"]}


def _qwen3(get: Get, common: Values) -> Values:
    return {"architectures": ["Qwen3ForCausalLM"]}


def _qwen3_moe(get: Get, common: Values) -> Values:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": get("expert_count"),
        "num_experts_per_tok": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _gemma2(get: Get, common: Values) -> Values:
    softcaps = {
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"),
    }
    return _present(softcaps) | _pattern(get) | {"architectures": ["Gemma2ForCausalLM"]}


def _gemma3(get: Get, common: Values) -> Values:
    return _pattern(get) | {
        "architectures": ["Gemma3ForCausalLM"],
        "rope_local_base_freq": get("rope.freq_base_swa") or 1e4,
        "final_logit_softcapping": get("final_logit_softcapping"),
        "sliding_window": common["sliding_window"],  # a missing one means none here, not the family's default
    }


def _pattern(get: Get) -> Values:
    """Which layers have a window: every so many have none, or a list says."""
    pattern = get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return {"layer_types": ["sliding_attention" if local else "full_attention" for local in pattern]}
    return _present({"sliding_window_pattern": pattern})


def _phi3(get: Get, common: Values) -> Values:
    head_dim = head_size(HFConfig(common))
    rotated = get("rope.dimension_count")
    return {
        "architectures": ["Phi3ForCausalLM"],
        "partial_rotary_factor": rotated / head_dim if isinstance(rotated, int) else None,
    }


_ARCHITECTURES: dict[str, Callable[[Get, Values], Values]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3_moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
}


def _amended(config: ModelConfig, name: str) -> ModelConfig:
    """With what files do not say: Gemma's norms have their offset already, and its attention has its own scale."""
    config = msgspec.structs.replace(config, norm_offset=0.0)
    if name not in _LAYERS_OF_27B:
        return config
    is_27b = config.num_layers == _LAYERS_OF_27B[name]
    dimensions = config.hidden_size // config.num_heads if is_27b else config.head_dim
    return msgspec.structs.replace(config, attention_scale=dimensions**-0.5)


def _present(values: Values) -> Values:
    return {key: value for key, value in values.items() if value is not None}


def _rope_scaling(get: Get) -> Values | None:
    linear, kind = get("rope.scale_linear"), get("rope.scaling.type") or "none"
    if kind == "none":
        return None if linear in (None, 1.0) else {"rope_type": "linear", "factor": linear}
    return {
        "rope_type": kind,
        "factor": get("rope.scaling.factor") or 1.0,
        "attention_factor": get("rope.scaling.yarn_attn_factor"),
        "beta_fast": get("rope.scaling.yarn_beta_fast"),
        "beta_slow": get("rope.scaling.yarn_beta_slow"),
    }
