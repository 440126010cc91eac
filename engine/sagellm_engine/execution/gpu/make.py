"""A model loaded onto the GPU, with the KV cache that fits beside it."""

import dataclasses
from collections.abc import Iterable

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.execution.make import Made
from sagellm_engine.loader import Checkpoint
from sagellm_engine.loader.on_load import weight_bytes
from sagellm_engine.memory import check_weights, free_gpu_bytes, kv_blocks
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights
from sagellm_engine.weights import Weight

from .executor import GpuExecutor
from .kv_cache import cache_dtype
from .product import GpuPacker

_KV_SHARE = 0.95
"""Of what is free after the weights, the KV cache takes so much."""


def make_gpu_executor(
    config: EngineConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, Weight]],
    draft: ModelConfig | None,
) -> Made:
    """Load `tensors`, which are the weights of `checkpoint`; room is left for a KV cache of `draft` as well.

    Raises:
        ModelLoadError: the weights cannot be read, or the model does something not known here.
        OutOfMemory: weights or KV cache do not fit.
    """
    model = checkpoint.config
    check_weights(weight_bytes(checkpoint, config.quantization, dtype.itemsize), free_gpu_bytes())
    packer = GpuPacker(dtype, torch.device("cuda"))
    weights = Weights(model, tensors, packer)
    stored = cache_dtype(config.kv_cache_dtype, dtype)
    token_bytes = sum(
        2 * stored.itemsize * each.num_layers * each.num_kv_heads * each.head_dim
        for each in (model, draft)
        if each is not None
    )
    free_bytes = free_gpu_bytes()
    if config.num_blocks is None and config.kv_cache_bytes is None:
        # Nobody else wants a GPU's memory, unlike a laptop's; but no more than all sequences can fill.
        useful_bytes = config.max_num_seqs * (config.max_model_len or model.max_position_embeddings) * token_bytes
        config = dataclasses.replace(config, kv_cache_bytes=min(useful_bytes, int(free_bytes * _KV_SHARE)))
    num_blocks, longest = kv_blocks(config, token_bytes, model.max_position_embeddings, free_bytes)
    executor = GpuExecutor(
        build(model, weights, longest),
        packer,
        num_blocks,
        config.block_size,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        max_model_len=longest,
        kv_cache_dtype=config.kv_cache_dtype,
    )
    return Made(executor, num_blocks, longest, drawing=executor)
