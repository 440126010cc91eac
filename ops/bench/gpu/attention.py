"""Paged decode attention: what share of a copy's bandwidth it reads the KV cache with."""

from typing import Any

import torch

from sagellm_engine.kernels.paged_attention_reference import PagedCache
from sagellm_engine.kernels.paged_decode import paged_decode

from .timing import median_ms

_BLOCK_SIZE = 16


def attention_cases(copy_bytes_per_s: float) -> list[dict[str, Any]]:
    """64 sequences of 4,096 tokens with the heads of Llama-3.2-1B and 3.1-8B, in bfloat16 and fp8."""
    return [
        _case(head_dim, dtype, copy_bytes_per_s)
        for head_dim in (64, 128)
        for dtype in (torch.bfloat16, torch.float8_e4m3fn)
    ]


def _case(head_dim: int, dtype: torch.dtype, copy_bytes_per_s: float) -> dict[str, Any]:
    sequences, tokens, heads, kv_heads = 64, 4096, 32, 8
    blocks_each = tokens // _BLOCK_SIZE
    num_blocks = sequences * blocks_each
    kv = torch.randn(num_blocks, 2, kv_heads, _BLOCK_SIZE, head_dim, dtype=torch.bfloat16, device="cuda").to(dtype)
    scale = torch.ones(kv_heads, device="cuda") if dtype.itemsize == 1 else None
    cache = PagedCache(kv[:, 0], kv[:, 1], scale, scale)
    tables = torch.randperm(num_blocks, dtype=torch.int32, device="cuda")
    starts = torch.arange(0, num_blocks, blocks_each, dtype=torch.int32, device="cuda")
    lengths = torch.full((sequences,), tokens, dtype=torch.int32, device="cuda")
    query = torch.randn(sequences, heads, head_dim, dtype=torch.bfloat16, device="cuda")
    ms = median_ms(lambda: paged_decode(query, cache, tables, starts, lengths, tokens, scale=head_dim**-0.5))
    kv_bytes = kv.numel() * dtype.itemsize
    return {
        "what": f"decode attention, {sequences} x {tokens}, {heads}/{kv_heads} heads of {head_dim}, {dtype}",
        "ms": ms,
        "kv_bytes": kv_bytes,
        "share_of_copy_bandwidth": kv_bytes / (ms / 1e3) / copy_bytes_per_s,
    }
