"""Models of real shapes with random weights, in our executor."""

from collections.abc import Iterator
from typing import Any

import torch

from sagellm_engine.config import ModelConfig, read_hf_config
from sagellm_engine.execution.gpu import GpuExecutor, GpuPacker
from sagellm_engine.loader.expected_tensors import expected_shapes
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights

_COMMON = {
    "dtype": "bfloat16",
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
}

LLAMA_1B = _COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B."""

LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
"""Llama-3.1-8B."""

QWEN3_600M = _COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
"""Qwen3-0.6B."""


def random_executor(shape: dict[str, Any], *, num_seqs: int, num_tokens: int, longest: int) -> GpuExecutor:
    """An executor of a model of `shape`, for `num_seqs` sequences of up to `longest` tokens."""
    config = read_hf_config(shape)
    packer = GpuPacker(torch.bfloat16, torch.device("cuda"))
    weights = Weights(config, _random_tensors(config), packer)
    return GpuExecutor(
        build(config, weights, longest),
        packer,
        num_blocks=num_seqs * -(-longest // 16) + 1,
        block_size=16,
        max_num_seqs=num_seqs,
        max_batched_tokens=num_tokens,
        max_model_len=longest,
    )


def weight_bytes(shape: dict[str, Any]) -> int:
    """What a decode step of one sequence reads of the weights: the embeddings only if they are the head too."""
    config = read_hf_config(shape)
    shapes = expected_shapes(config)
    if not config.tie_word_embeddings:
        shapes = {name: size for name, size in shapes.items() if "embed_tokens" not in name}
    return sum(2 * torch.Size(size).numel() for size in shapes.values())


def _random_tensors(config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    for name, size in expected_shapes(config).items():
        yield name, torch.randn(*size, dtype=torch.bfloat16, device="cuda") * 0.02
