"""A GGUF file's metadata as a model config."""

from typing import Any

from gguf.constants import GGMLQuantizationType

from sagellm_engine.config import ModelConfig, read_hf_config
from sagellm_schemas import ModelLoadError

from .gguf_header import GgufHeader

_ARCHITECTURES = {"llama": "LlamaForCausalLM"}
_DTYPES = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.F16: "float16"}


def read_config(header: GgufHeader, rope_scaling: dict[str, Any] | None, file: str) -> ModelConfig:
    """The config of the model in a GGUF file; `file` names it in errors.

    `rope_scaling` replaces the metadata's, for models whose scaling is a tensor in the file.

    Raises:
        ModelLoadError: the architecture is not one we run, or a key is missing or wrong.
    """
    metadata = header.metadata
    name = metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        raise ModelLoadError(
            f"{file} has the architecture {name!r}, which is not supported; "
            f"supported are {', '.join(_ARCHITECTURES)}"
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelLoadError(f"{file} is one part of a split GGUF; merge the parts with llama-gguf-split --merge")
    if metadata.get(f"{name}.expert_count"):
        raise ModelLoadError(f"{file} is a mixture of experts, which is not supported")

    def need(key: str) -> Any:
        if f"{name}.{key}" not in metadata:
            raise ModelLoadError(f"{file} has no metadata {name}.{key}")
        return metadata[f"{name}.{key}"]

    if "token_embd.weight" not in header.tensors:
        raise ModelLoadError(f"{file} has no tensor token_embd.weight")
    query = header.tensors.get("blk.0.attn_q.weight")
    config = {
        "architectures": [_ARCHITECTURES[str(name)]],
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": need("embedding_length"),
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": need("attention.head_count"),
        "num_key_value_heads": metadata.get(f"{name}.attention.head_count_kv"),
        "head_dim": metadata.get(f"{name}.attention.key_length"),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get(f"{name}.rope.freq_base"),
        "rope_scaling": rope_scaling or _rope_scaling(metadata, str(name)),
        "max_position_embeddings": need("context_length"),
        "sliding_window": metadata.get(f"{name}.attention.sliding_window"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "dtype": _DTYPES.get(query.kind, "bfloat16") if query else "bfloat16",
    }
    try:
        read = read_hf_config(config)
    except ModelLoadError as error:
        raise ModelLoadError(f"{file}: {error.message}") from None
    rotated = metadata.get(f"{name}.rope.dimension_count", read.head_dim)
    if rotated != read.head_dim:
        raise ModelLoadError(
            f"{file} rotates {rotated} of {read.head_dim} dimensions of a head, which is not supported"
        )
    return read


def _rope_scaling(metadata: dict[str, object], name: str) -> dict[str, Any] | None:
    linear = metadata.get(f"{name}.rope.scale_linear")
    kind = metadata.get(f"{name}.rope.scaling.type", "none")
    if kind == "none" and linear not in (None, 1.0):
        return {"rope_type": "linear", "factor": linear}
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": metadata.get(f"{name}.rope.scaling.factor", 1.0)}
    original = metadata.get(f"{name}.rope.scaling.original_context_length")
    return scaling if original is None else scaling | {"original_max_position_embeddings": original}
