"""Rotary embeddings and the write to the cache against their reference."""

import torch

from sagellm_engine.kernels.paged_attention_reference import PagedCache
from sagellm_engine.kernels.rotary_kv_write import rotary_kv_write, rotary_kv_write_reference

from .draws import FLOATS, FP8, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case."""
    pick = draws.pick
    kv_heads = pick.randint(1, 2)
    num_heads = kv_heads * pick.randint(1, 3)
    head_dim = pick.choice((4, 16, 40, 64, 96, 128, 256))
    half = pick.choice((head_dim // 2, head_dim // 2, head_dim // 4))
    block_size, rows = pick.choice((1, 4, 16)), draws.size(1, 4, 500)
    num_blocks = -(-rows // block_size) + pick.randint(0, 3)
    cache = draws.cache(num_blocks, kv_heads, block_size, head_dim)
    dtype = pick.choice(FLOATS)
    wide = draws.normal(rows, (num_heads + 2 * kv_heads) * head_dim + 8, dtype=dtype)
    qkv = wide[:, :-8] * pick.choice((1.0, 1000.0))  # what fp8 cannot hold is cut off, not NaN
    slots = pick.sample(range(num_blocks * block_size), rows)
    if pick.random() < 0.3:
        slots[pick.randrange(rows)] = -1
    positions = [pick.randrange(200) for _ in range(rows)]
    angles = draws.normal(200, half)
    norms = (
        {"query_norm": draws.normal(head_dim), "key_norm": draws.normal(head_dim)} if pick.random() < 0.5 else {}
    )
    expected_qkv = qkv.clone()
    expected = PagedCache(cache.keys.clone(), cache.values.clone(), cache.key_scale, cache.value_scale)
    where = (draws.ints(positions), draws.ints(slots), angles.cos(), angles.sin())
    rotary_kv_write(qkv, *where, cache, num_heads=num_heads, eps=1e-6, **norms)
    rotary_kv_write_reference(expected_qkv, *where, expected, num_heads=num_heads, eps=1e-6, **norms)
    assert_close(qkv, expected_qkv, dtype)
    for actual, other in ((cache.keys, expected.keys), (cache.values, expected.values)):
        if cache.keys.dtype is FP8:
            # Three bits of fraction: what lies on the edge of two numbers may go to either.
            torch.testing.assert_close(actual.float(), other.float(), atol=2.0**-9, rtol=2.0**-3)
        else:
            assert_close(actual, other, cache.keys.dtype)
