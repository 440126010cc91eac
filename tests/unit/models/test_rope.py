"""Rotary tables are those of transformers."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sagellm_engine.config import read_hf_config
from sagellm_engine.layers import RotaryTable

SHAPE: dict[str, Any] = {
    "vocab_size": 10,
    "hidden_size": 256,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
ORIGINAL = {"original_max_position_embeddings": 128}
FACTORS = {"short_factor": [1.0 + 0.01 * n for n in range(24)], "long_factor": [1.0 + 0.5 * n for n in range(24)]}


def table_of(config: LlamaConfig | Phi3Config, declared_len: int) -> RotaryTable:
    architecture = {"architectures": [type(config).__name__.replace("Config", "ForCausalLM")]}
    [rope] = read_hf_config(config.to_dict() | architecture).ropes
    return RotaryTable(rope, 300, declared_len)


def check(config: LlamaConfig | Phi3Config, declared_len: int) -> None:
    kind = config.rope_parameters["rope_type"]
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, seq_len=declared_len)
    angles = torch.arange(300).float()[:, None] * frequencies
    table = table_of(config, declared_len)
    assert torch.equal(table.cos, angles.cos() * factor)
    assert torch.equal(table.sin, angles.sin() * factor)


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | ORIGINAL,
        {"rope_type": "yarn", "factor": 4.0} | ORIGINAL,
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False} | ORIGINAL,
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.8} | ORIGINAL,
        {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7} | ORIGINAL,
    ],
)
def test_each_scaling_is_to_the_last_bit_that_of_transformers(parameters: dict[str, Any]) -> None:
    check(LlamaConfig(**SHAPE, rope_parameters=parameters | {"rope_theta": 5e4}), 512)


@pytest.mark.parametrize("declared_len", [128, 129, 512])
@pytest.mark.parametrize("more", [{}, {"attention_factor": 1.3}, {"factor": 3.0}])
def test_longrope_goes_by_how_long_sequences_may_be(declared_len: int, more: dict[str, float]) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75} | FACTORS | more
    config = Phi3Config(**SHAPE, rope_parameters=rope, **ORIGINAL, pad_token_id=0)
    check(config, declared_len)
    assert table_of(config, declared_len).cos.shape == (300, 24)


def test_short_memory_does_not_change_the_scaling() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75} | FACTORS
    config = Phi3Config(**SHAPE, rope_parameters=rope, **ORIGINAL, pad_token_id=0)
    [scaled] = read_hf_config(config.to_dict() | {"architectures": ["Phi3ForCausalLM"]}).ropes
    assert torch.equal(RotaryTable(scaled, 100, 512).cos, RotaryTable(scaled, 300, 512).cos[:100])
