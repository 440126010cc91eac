"""From the names of tensors in GGUF files to those by which the engine knows them."""

import re
from collections.abc import Iterator, Mapping

from .gguf_header import GgufTensor

_GLOBAL_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_GEMMA_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_SPECIAL_NAMES = {"gemma2": _GEMMA_NAMES, "gemma3": _GEMMA_NAMES, "phi3": {"ffn_up": "mlp.gate_up_proj"}}
_EXPERT_NAMES = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}


def hf_tensors(architecture: str, tensors: Mapping[str, GgufTensor]) -> dict[str, GgufTensor]:
    """The tensors of a file by their Hugging Face names, such as `model.layers.3.self_attn.q_proj.weight`.

    A tensor that has all experts of a layer becomes one matrix for each. Tensors of other names are left out.
    """
    layer_names = _LAYER_NAMES | _SPECIAL_NAMES.get(architecture, {})
    named: dict[str, GgufTensor] = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        if stem in _GLOBAL_NAMES:
            named[f"{_GLOBAL_NAMES[stem]}.{kind}"] = tensor
        elif layer is not None and layer[2] in layer_names:
            named[f"model.layers.{layer[1]}.{layer_names[layer[2]]}.{kind}"] = tensor
        elif layer is not None and layer[2] in _EXPERT_NAMES:
            for number, matrix in enumerate(_matrices(tensor)):
                named[f"model.layers.{layer[1]}.mlp.experts.{number}.{_EXPERT_NAMES[layer[2]]}.{kind}"] = matrix
    return named


def _matrices(tensor: GgufTensor) -> Iterator[GgufTensor]:
    if not tensor.size_bytes:
        return  # damaged: whatever number of nothing
    count, *shape = tensor.shape
    size_bytes = tensor.size_bytes // count
    for number in range(count):
        yield GgufTensor(tuple(shape), tensor.kind, tensor.start + number * size_bytes, size_bytes)
