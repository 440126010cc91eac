"""Attention of prompts, whole or in chunks, over the paged KV cache that already holds their keys and values.

FlashAttention-2 (Dao, 2023) with keys and values found through the block table; the query heads that share a KV
head are rows of one tile, as in the unified kernels of vLLM and FlashInfer (Ye et al., 2025). Decoding rows may
be in the same call: they are sequences of one row.
"""

import torch
import triton
import triton.language as tl

from .attention_scores import accumulate, capped, score_factors
from .launch_table import Config, launch_config
from .operands import dot_type
from .paged_attention_reference import PagedCache, attend, gather


@triton.jit
def _attend_tile(
    query, keys, values, tables, table_starts, row_starts, lengths, key_scale, value_scale, out, factor,
    stride_query_row, stride_query_head,
    stride_key_block, stride_key_head, stride_key_token,
    stride_value_block, stride_value_head, stride_value_token,
    stride_out_row, stride_out_head,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, DOT_TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M // GROUP consecutive rows of one sequence, for the query heads of one KV head."""
    tile, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    ROWS: tl.constexpr = BLOCK_M // GROUP
    row_start = tl.load(row_starts + sequence)
    num_rows = tl.load(row_starts + sequence + 1) - row_start
    if tile * ROWS >= num_rows:
        return
    length = tl.load(lengths + sequence)
    context = length - num_rows

    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    row = tile * ROWS + m // GROUP
    position = context + row
    head = kv_head * GROUP + m % GROUP
    used = (m < ROWS * GROUP) & (row < num_rows)
    query_mask = used[:, None] & (d < HEAD_DIM)[None, :]
    row64 = (row_start + row).to(tl.int64)
    query_at = row64 * stride_query_row + head * stride_query_head
    q = tl.load(query + query_at[:, None] + d[None, :], mask=query_mask, other=0.0).to(DOT_TYPE)
    if key_scale is not None:
        factor = factor * tl.load(key_scale + kv_head)

    running_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    table = tables + tl.load(table_starts + sequence)
    begin = tl.maximum(context + tile * ROWS - WINDOW + 1, 0) // BLOCK_N * BLOCK_N if WINDOW > 0 else 0
    end = tl.minimum(context + tile * ROWS + ROWS, length)
    for start in range(begin, end, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        live = token < end
        block = tl.load(table + token // BLOCK_SIZE, mask=live, other=0).to(tl.int64)
        slot = token % BLOCK_SIZE
        key_at = block * stride_key_block + kv_head * stride_key_head + slot * stride_key_token
        value_at = block * stride_value_block + kv_head * stride_value_head + slot * stride_value_token
        key_mask, value_mask = live[None, :], live[:, None]
        if BLOCK_D != HEAD_DIM:
            key_mask = key_mask & (d < HEAD_DIM)[:, None]
            value_mask = value_mask & (d < HEAD_DIM)[None, :]
        k = tl.load(keys + key_at[None, :] + d[:, None], mask=key_mask, other=0.0).to(DOT_TYPE)
        v = tl.load(values + value_at[:, None] + d[None, :], mask=value_mask, other=0.0).to(DOT_TYPE)
        scores = capped(tl.dot(q, k, input_precision="ieee") * factor, SOFTCAP)
        visible = token[None, :] <= position[:, None]
        if WINDOW > 0:
            visible = visible & (token[None, :] > position[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        running_max, running_sum, acc = accumulate(scores, v, running_max, running_sum, acc, DOT_TYPE)

    acc = acc / tl.where(running_sum > 0.0, running_sum, 1.0)[:, None]
    if value_scale is not None:
        acc = acc * tl.load(value_scale + kv_head)
    out_at = row64 * stride_out_row + head * stride_out_head
    tl.store(out + out_at[:, None] + d[None, :], acc.to(out.dtype.element_ty), mask=query_mask)


def paged_prefill(
    query: torch.Tensor,
    cache: PagedCache,
    tables: torch.Tensor,
    table_starts: torch.Tensor,
    row_starts: torch.Tensor,
    lengths: torch.Tensor,
    max_rows: int,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    out: torch.Tensor | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Causal attention of several sequences' rows; (rows, heads, head_dim) in the dtype of `query`.

    Rows `row_starts[i]` … `row_starts[i + 1] - 1` of `query` (rows, heads, head_dim) are the last positions of
    sequence i, which has `lengths[i]` tokens in the blocks from `tables[table_starts[i]]` on; all of these are
    int32 and flat. `max_rows` is at least the rows of the longest. A row sees the last `window` tokens (0: all).
    With `out`, rows of no sequence are left as they are there. head_dim is at most 256, and so many heads may
    share a KV head.
    """
    heads, head_dim = query.shape[1:]
    kv_heads = cache.keys.shape[1]
    group = heads // kv_heads
    if config is None:
        config = launch_config("paged_prefill", shape_classes(head_dim, max_rows * group), query.device)
    block_m = max(config["BLOCK_M"], triton.next_power_of_2(group), 16)
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    factor, cap = score_factors(scale, softcap)
    _attend_tile[triton.cdiv(max_rows, block_m // group), kv_heads, len(lengths)](
        query, cache.keys, cache.values, tables, table_starts, row_starts, lengths, cache.key_scale,
        cache.value_scale, out, factor, *query.stride()[:2], *cache.keys.stride()[:3],
        *cache.values.stride()[:3], *out.stride()[:2], SOFTCAP=cap, WINDOW=window, HEAD_DIM=head_dim,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)), GROUP=group, BLOCK_M=block_m,
        BLOCK_SIZE=cache.block_size, BLOCK_N=config["BLOCK_N"], DOT_TYPE=dot_type(query.dtype),
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return out


def shape_classes(head_dim: int, tile_rows: int) -> tuple[str, ...]:
    """What the table distinguishes: the padded head size, and whether there are rows enough for a large tile."""
    size = "short" if tile_rows <= 64 else "long"
    return (f"d{max(16, triton.next_power_of_2(head_dim))}-{size}",)


def paged_prefill_reference(
    query: torch.Tensor,
    cache: PagedCache,
    tables: torch.Tensor,
    table_starts: torch.Tensor,
    row_starts: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> torch.Tensor:
    """The same in plain PyTorch, sequence by sequence, in float32."""
    out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
    starts = row_starts.tolist()
    for sequence, length in enumerate(lengths.tolist()):
        rows = slice(starts[sequence], starts[sequence + 1])
        keys, values = gather(cache, tables[table_starts[sequence] :], length)
        out[rows] = attend(query[rows], keys, values, scale=scale, window=window, softcap=softcap)
    return out.to(query.dtype)
