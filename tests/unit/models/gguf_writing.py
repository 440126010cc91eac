"""Tiny models as GGUF files, written with llama.cpp's own package: its names of tensors, its keys."""

import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import PreTrainedModel

from .tiny_models import VOCABULARY


def write_gguf(model: PreTrainedModel, architecture: str, path: Path, kind: Kind = Kind.F32) -> None:
    """Write `model` as llama.cpp's converter does, its matrices in `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, model.config, architecture)
    tokens = [f"t{number}" for number in range(VOCABULARY)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (VOCABULARY - 1))
    writer.add_eos_token_id(0)
    for name, tensor in _tensors(model, architecture):
        array = tensor.detach().float().contiguous().numpy()
        if array.ndim == 1 or kind == Kind.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, config: object, architecture: str) -> None:
    def get(key: str) -> object:
        return getattr(config, key, None)

    head_dim = get("head_dim") or get("hidden_size") // get("num_attention_heads")
    rope = get("rope_parameters")
    full = rope.get("full_attention", rope)
    writer.add_context_length(get("max_position_embeddings"))
    writer.add_embedding_length(get("hidden_size"))
    writer.add_feed_forward_length(get("intermediate_size"))
    writer.add_block_count(get("num_hidden_layers"))
    writer.add_head_count(get("num_attention_heads"))
    writer.add_head_count_kv(get("num_key_value_heads"))
    writer.add_layer_norm_rms_eps(get("rms_norm_eps"))
    writer.add_rope_freq_base(full["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * full.get("partial_rotary_factor", 1.0)))
    if head_dim * get("num_attention_heads") != get("hidden_size"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if get("sliding_window"):
        writer.add_sliding_window(get("sliding_window"))
    if full["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(full["rope_type"]))
        writer.add_rope_scaling_factor(full["factor"])
    if full["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(full["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(full["beta_fast"])
    if full["rope_type"] == "longrope":
        scale = get("max_position_embeddings") / get("original_max_position_embeddings")
        factor = np.sqrt(1 + np.log(scale) / np.log(get("original_max_position_embeddings")))
        writer.add_rope_scaling_attn_factors(float(factor))
        writer.add_rope_scaling_orig_ctx_len(get("original_max_position_embeddings"))
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in get("layer_types")])
    if get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(get("attn_logit_softcapping"))
    if get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(get("final_logit_softcapping"))
    if experts := get("num_local_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(get("num_experts_per_tok"))
    if get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(get("moe_intermediate_size"))


def _tensors(model: PreTrainedModel, architecture: str) -> Iterator[tuple[str, torch.Tensor]]:
    config = model.config
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        if architecture == "llama" and re.search(r"self_attn\.[qk]_proj", name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        if name.endswith("experts.gate_up_proj"):
            gates, ups = tensor.chunk(2, dim=1)
            parts = {"gate_proj": gates, "up_proj": ups}
        elif name.endswith("experts.down_proj"):
            parts = {"down_proj": tensor}
        else:
            yield names.get_name(name, try_suffixes=(".weight", ".bias")), tensor
            continue
        for projection, stacked in parts.items():
            module = f"{name.rpartition('.')[0]}.{projection}.weight"
            yield names.get_name(module, try_suffixes=(".weight",)), stacked
    rope = config.rope_parameters
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", torch.tensor(rope["long_factor"])
        yield "rope_factors_short.weight", torch.tensor(rope["short_factor"])
