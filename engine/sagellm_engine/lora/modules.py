"""Which part of which product a module is that an adapter changes."""

import re
from dataclasses import dataclass

from sagellm_engine.config import ModelConfig

from .adapter import ProductKind

_MODULE = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.(\w+\.\w+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Outputs `first_row` … `first_row + outputs - 1` of a product, which has so many `inputs`."""

    kind: ProductKind
    first_row: int
    outputs: int
    inputs: int


def places(config: ModelConfig) -> dict[str, Place]:
    """The modules of a layer that can be adapted, by name; models that store fused ones name them so."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "self_attn.q_proj": Place("qkv", 0, queries, hidden),
        "self_attn.k_proj": Place("qkv", queries, keys, hidden),
        "self_attn.v_proj": Place("qkv", queries + keys, keys, hidden),
        "self_attn.qkv_proj": Place("qkv", 0, queries + 2 * keys, hidden),
        "self_attn.o_proj": Place("attention_out", 0, hidden, queries),
        "mlp.gate_proj": Place("gate_up", 0, inner, hidden),
        "mlp.up_proj": Place("gate_up", inner, inner, hidden),
        "mlp.gate_up_proj": Place("gate_up", 0, 2 * inner, hidden),
        "mlp.down_proj": Place("down", 0, hidden, inner),
    }


def layer_and_name(module: str) -> tuple[int, str] | None:
    """The layer's index and the module's name in it, of `model.layers.3.mlp.up_proj`; None if it is in none."""
    found = _MODULE.fullmatch(module)
    return (int(found[1]), found[2]) if found else None
