"""Attention of decoding rows over the paged KV cache.

Split-KV as in Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023): a sequence's tokens are shared out among
several programs, so that few sequences still fill the GPU, and a second kernel puts their parts together. All
query heads of a KV head are rows of one product, so keys and values are read once (grouped queries as in
FlashInfer, Ye et al., 2025).
"""

import torch
import triton
import triton.language as tl

from .attention_scores import accumulate, capped, score_factors
from .launch_table import Config, launch_config, num_multiprocessors
from .operands import dot_type
from .paged_attention_reference import PagedCache, attend, gather


@triton.jit
def _attend_split(
    query, keys, values, tables, table_starts, lengths, key_scale, value_scale,
    out, partial_out, partial_lse, factor,
    stride_query_row, stride_query_head,
    stride_key_block, stride_key_head, stride_key_token,
    stride_value_block, stride_value_head, stride_value_token,
    stride_out_row, stride_out_head,
    SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, DOT_TYPE: tl.constexpr,
):  # fmt: skip
    """One program: one split of one row's tokens, for the GROUP query heads of one KV head."""
    kv_head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = tl.maximum(length - WINDOW, 0) if WINDOW > 0 else 0
    share = tl.cdiv(tl.cdiv(length - first, SPLITS), BLOCK_N) * BLOCK_N
    begin = first + split * share
    end = tl.minimum(begin + share, length)
    if SPLITS > 1:
        if begin >= end:
            return

    group, d = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + group
    query_mask = (group < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    row64 = row.to(tl.int64)
    query_at = row64 * stride_query_row + head[:, None] * stride_query_head + d[None, :]
    q = tl.load(query + query_at, mask=query_mask, other=0.0).to(DOT_TYPE)
    if key_scale is not None:
        factor = factor * tl.load(key_scale + kv_head)

    running_max = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    running_sum = tl.zeros((BLOCK_G,), tl.float32)
    acc = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
    table = tables + tl.load(table_starts + row)
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
        # What lies beyond the end may be anything, NaN too, so it is not read.
        k = tl.load(keys + key_at[None, :] + d[:, None], mask=key_mask, other=0.0).to(DOT_TYPE)
        v = tl.load(values + value_at[:, None] + d[None, :], mask=value_mask, other=0.0).to(DOT_TYPE)
        scores = capped(tl.dot(q, k, input_precision="ieee") * factor, SOFTCAP)
        scores = tl.where(live[None, :], scores, float("-inf"))
        running_max, running_sum, acc = accumulate(scores, v, running_max, running_sum, acc, DOT_TYPE)

    acc = acc / tl.where(running_sum > 0.0, running_sum, 1.0)[:, None]
    if value_scale is not None:
        acc = acc * tl.load(value_scale + kv_head)
    if SPLITS == 1:
        out_at = row64 * stride_out_row + head[:, None] * stride_out_head + d[None, :]
        tl.store(out + out_at, acc.to(out.dtype.element_ty), mask=query_mask)
    else:
        num_heads = tl.num_programs(0) * GROUP
        part = (row64 * num_heads + head) * SPLITS + split
        tl.store(partial_out + part[:, None] * HEAD_DIM + d[None, :], acc, mask=query_mask)
        tl.store(partial_lse + part, running_max + tl.log2(running_sum), mask=group < GROUP)


@triton.jit
def _combine(
    partial_out, partial_lse, lengths, out, stride_out_row, stride_out_head,
    WINDOW: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One program: one head of one row; the mean of its splits, weighted by their softmax sums."""
    head, row = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(0)
    length = tl.load(lengths + row)
    first = tl.maximum(length - WINDOW, 0) if WINDOW > 0 else 0
    share = tl.cdiv(tl.cdiv(length - first, SPLITS), BLOCK_N) * BLOCK_N
    split, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    written = (split < SPLITS) & (first + split * share < length)
    row64 = row.to(tl.int64)
    part = (row64 * num_heads + head) * SPLITS + split
    lse = tl.load(partial_lse + part, mask=written, other=float("-inf"))
    best = tl.max(lse, 0)
    weight = tl.where(written, tl.exp2(lse - best), 0.0)
    mask = written[:, None] & (d < HEAD_DIM)[None, :]
    parts = tl.load(partial_out + part[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0)
    total = tl.sum(weight, 0)
    result = tl.sum(parts * weight[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    out_at = row64 * stride_out_row + head * stride_out_head + d
    tl.store(out + out_at, result.to(out.dtype.element_ty), mask=d < HEAD_DIM)


def paged_decode(
    query: torch.Tensor,
    cache: PagedCache,
    tables: torch.Tensor,
    table_starts: torch.Tensor,
    lengths: torch.Tensor,
    max_tokens: int,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    out: torch.Tensor | None = None,
    splits: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Attention of one row for each sequence; (rows, heads, head_dim) in the dtype of `query`, or into `out`.

    `query` is (rows, heads, head_dim), any strides but the last. A row's sequence has `lengths[row]` tokens, the
    query's own included and at most `max_tokens`, in the blocks from `tables[table_starts[row]]` on; all three
    are int32 and flat. A row of length 0 gives zeros. A row sees the last `window` tokens (0: all). head_dim is
    at most 256.
    """
    rows, heads, head_dim = query.shape
    kv_heads = cache.keys.shape[1]
    group = heads // kv_heads
    block_d = max(16, triton.next_power_of_2(head_dim))
    config = config or launch_config("paged_decode", shape_classes(head_dim, cache.keys.dtype), query.device)
    if splits is None:
        span = min(max_tokens, window) if window else max_tokens
        splits = num_splits(rows * kv_heads, span, config, query.device)
    if out is None:
        out = torch.empty(rows, heads, head_dim, dtype=query.dtype, device=query.device)
    parts = splits if splits > 1 else 0
    partial_out = torch.empty(rows, heads, parts, head_dim, dtype=torch.float32, device=query.device)
    partial_lse = torch.empty(rows, heads, parts, dtype=torch.float32, device=query.device)
    factor, cap = score_factors(scale, softcap)
    _attend_split[kv_heads, rows, splits](
        query, cache.keys, cache.values, tables, table_starts, lengths, cache.key_scale, cache.value_scale,
        out, partial_out, partial_lse, factor, *query.stride()[:2], *cache.keys.stride()[:3],
        *cache.values.stride()[:3], *out.stride()[:2],
        SOFTCAP=cap, WINDOW=window, HEAD_DIM=head_dim, BLOCK_D=block_d, GROUP=group,
        BLOCK_G=max(16, triton.next_power_of_2(group)), BLOCK_SIZE=cache.block_size, BLOCK_N=config["BLOCK_N"],
        SPLITS=splits, DOT_TYPE=dot_type(query.dtype),
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    if splits > 1:
        _combine[heads, rows](
            partial_out, partial_lse, lengths, out, *out.stride()[:2],
            WINDOW=window, HEAD_DIM=head_dim, BLOCK_D=block_d, BLOCK_N=config["BLOCK_N"], SPLITS=splits,
            BLOCK_S=triton.next_power_of_2(splits), num_warps=4,
        )  # fmt: skip
    return out


def shape_classes(head_dim: int, cache_dtype: torch.dtype) -> tuple[str, ...]:
    """What the table distinguishes: the padded head size and the bytes of a cached value."""
    return (f"d{max(16, triton.next_power_of_2(head_dim))}-{cache_dtype.itemsize}byte",)


def num_splits(programs: int, tokens: int, config: Config, device: torch.device) -> int:
    """How many programs share a sequence of up to `tokens`: each multiprocessor should have several."""
    wanted = -(-num_multiprocessors(device) * config["PROGRAMS_PER_SM"] // programs)
    return max(1, min(wanted, -(-tokens // (2 * config["BLOCK_N"])), 128))


def paged_decode_reference(
    query: torch.Tensor,
    cache: PagedCache,
    tables: torch.Tensor,
    table_starts: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> torch.Tensor:
    """The same in plain PyTorch, sequence by sequence, in float32."""
    out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
    for row, length in enumerate(lengths.tolist()):
        if length:
            keys, values = gather(cache, tables[table_starts[row] :], length)
            out[row] = attend(query[row : row + 1], keys, values, scale=scale, window=window, softcap=softcap)[0]
    return out.to(query.dtype)
