"""Rotary embeddings (Su et al., 2021, half-split layout), and the new keys and values into the paged cache.

One pass over the rows of q, k and v: each head of q and k is normalized if the model does so (Qwen3, Gemma 3),
turned by the angle of its position, and stays where it was (q) or goes to its slot of the cache (k); v is
copied. A cache in fp8 (e4m3) is written divided by its head's scale.
"""

import torch
import triton
import triton.language as tl

from .paged_attention_reference import PagedCache
from .rms_norm import rms_norm_reference

FP8_MAX = 448.0
"""Largest finite number of float8_e4m3fn; what is larger would become NaN. The kernel repeats it."""


@triton.jit
def _store(at, x, mask, scale, head):
    """Store x at `at`, divided by its head's scale where there is one."""
    if scale is not None:
        x = tl.minimum(tl.maximum(x / tl.load(scale + head), -448.0), 448.0)
        # Rounded to e4m3's three bits of fraction here, to even: Triton's interpreter loses the carry (127 → 64).
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
        x = bits.to(tl.float32, bitcast=True)
    tl.store(at, x.to(at.dtype.element_ty), mask=mask)


@triton.jit
def _rotary_kv_write(
    qkv, positions, slots, cosines, sines, query_norm, key_norm, keys, values, key_scale, value_scale, eps,
    stride_qkv, stride_angle,
    stride_key_block, stride_key_head, stride_key_token,
    stride_value_block, stride_value_head, stride_value_token,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """One program: one head of one row, of q, k or v, as the two halves that turn and the rest that does not."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h, r = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_R)
    turned, rest = h < HALF, r < HEAD_DIM - 2 * HALF
    x_at = qkv + row * stride_qkv + head * HEAD_DIM
    first = tl.load(x_at + h, mask=turned, other=0.0).to(tl.float32)
    second = tl.load(x_at + HALF + h, mask=turned, other=0.0).to(tl.float32)
    third = tl.load(x_at + 2 * HALF + r, mask=rest, other=0.0).to(tl.float32)
    slot = tl.load(slots + row).to(tl.int64)
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    if head < HEADS + KV_HEADS:
        if query_norm is not None:
            norm = query_norm if head < HEADS else key_norm
            squares = tl.sum(first * first, 0) + tl.sum(second * second, 0) + tl.sum(third * third, 0)
            shrink = tl.rsqrt(squares / HEAD_DIM + eps)
            first = first * shrink * tl.load(norm + h, mask=turned, other=0.0)
            second = second * shrink * tl.load(norm + HALF + h, mask=turned, other=0.0)
            third = third * shrink * tl.load(norm + 2 * HALF + r, mask=rest, other=0.0)
        angle = tl.load(positions + row).to(tl.int64) * stride_angle + h
        cosine = tl.load(cosines + angle, mask=turned, other=0.0)
        sine = tl.load(sines + angle, mask=turned, other=0.0)
        first, second = first * cosine - second * sine, second * cosine + first * sine
    if head < HEADS:
        _store(x_at + h, first, turned, None, 0)
        _store(x_at + HALF + h, second, turned, None, 0)
        if query_norm is not None:
            _store(x_at + 2 * HALF + r, third, rest, None, 0)
    elif slot >= 0:
        if head < HEADS + KV_HEADS:
            kv_head = head - HEADS
            at = keys + block * stride_key_block + kv_head * stride_key_head + offset * stride_key_token
            _store(at + h, first, turned, key_scale, kv_head)
            _store(at + HALF + h, second, turned, key_scale, kv_head)
            _store(at + 2 * HALF + r, third, rest, key_scale, kv_head)
        else:
            kv_head = head - HEADS - KV_HEADS
            at = values + block * stride_value_block + kv_head * stride_value_head + offset * stride_value_token
            _store(at + h, first, turned, value_scale, kv_head)
            _store(at + HALF + h, second, turned, value_scale, kv_head)
            _store(at + 2 * HALF + r, third, rest, value_scale, kv_head)


def rotary_kv_write(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    cache: PagedCache,
    *,
    num_heads: int,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> None:
    """Rotate the queries of `qkv` in place, and write its keys, rotated, and its values to `cache`.

    `qkv` is (rows, (num_heads + 2 · kv_heads) · head_dim), heads side by side. `slots` (rows,) int32 are block ·
    block_size + offset; a row of slot -1 is not kept. `cosines` and `sines` are (positions, pairs) float32; where
    2 · pairs is less than head_dim, the rest of a head is not turned. Norms are (head_dim,) float32
    weights, both or neither.
    """
    kv_heads, block_size, head_dim = cache.keys.shape[1:]
    half = cosines.shape[1]
    _rotary_kv_write[len(qkv), num_heads + 2 * kv_heads](
        qkv, positions, slots, cosines, sines, query_norm, key_norm, cache.keys, cache.values,
        cache.key_scale, cache.value_scale, eps, qkv.stride(0), cosines.stride(0),
        *cache.keys.stride()[:3], *cache.values.stride()[:3],
        HEADS=num_heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, HALF=half,
        BLOCK_H=triton.next_power_of_2(half), BLOCK_R=triton.next_power_of_2(max(1, head_dim - 2 * half)),
        BLOCK_SIZE=block_size, num_warps=1,
    )  # fmt: skip


def rotary_kv_write_reference(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    cache: PagedCache,
    *,
    num_heads: int,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> None:
    """The same in plain PyTorch; writes to `qkv` and `cache` too."""
    kv_heads, block_size, head_dim = cache.keys.shape[1:]
    heads = qkv.view(len(qkv), -1, head_dim)
    query, keys, values = heads.float().split((num_heads, kv_heads, kv_heads), 1)
    if query_norm is not None:
        query = rms_norm_reference(query, query_norm, eps)
    if key_norm is not None:
        keys = rms_norm_reference(keys, key_norm, eps)
    half = cosines.shape[1]
    cos, sin = (table[positions.long()].unsqueeze(1) for table in (cosines, sines))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    heads[:, :num_heads] = rotate(query).to(qkv.dtype)
    for new, stored, scale in (
        (rotate(keys), cache.keys, cache.key_scale),
        (values, cache.values, cache.value_scale),
    ):
        if scale is not None:
            new = (new / scale.view(1, -1, 1)).clamp(-FP8_MAX, FP8_MAX)
        for row, slot in enumerate(slots.tolist()):
            if slot >= 0:
                stored[slot // block_size, :, slot % block_size] = new[row].to(stored.dtype)
