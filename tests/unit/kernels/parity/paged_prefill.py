"""Attention of prompts and chunks against its reference."""

from itertools import accumulate

from sagellm_engine.kernels.paged_prefill import paged_prefill, paged_prefill_reference

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case."""
    pick = draws.pick
    kv_heads, group = pick.randint(1, 2), pick.choice((1, 2, 3, 4, 7, 8))
    head_dim = pick.choice((8, 16, 40, 64, 80, 96, 128, 256))
    block_size = pick.choice((1, 4, 16, 16, 32))
    num_rows = [draws.size(1, 14, 700) for _ in range(draws.size(1, 3, 8))]
    lengths = [rows + pick.choice((0, draws.size(1, 40, 2000))) for rows in num_rows]
    tables, starts, num_blocks = draws.tables(lengths, block_size)
    cache = draws.cache(num_blocks, kv_heads, block_size, head_dim)
    dtype = pick.choice(FLOATS)
    query = draws.strided(draws.normal(sum(num_rows), kv_heads * group, head_dim, dtype=dtype))
    row_starts = draws.ints([0, *accumulate(num_rows)])
    limits = {
        "scale": head_dim**-0.5 * pick.uniform(0.5, 2.0),
        "window": pick.choice((0, 0, draws.size(1, 30, 900))),
        "softcap": pick.choice((0.0, 0.0, 3.0, 50.0)),
    }
    config = None
    if not draws.large:
        config = {"BLOCK_M": pick.choice((16, 32)), "BLOCK_N": pick.choice((16, 32))}
        config |= {"num_warps": 4, "num_stages": 2}
    where = (cache, tables, starts, row_starts, draws.ints(lengths))
    actual = paged_prefill(query, *where, max(num_rows), config=config, **limits)
    assert_close(actual, paged_prefill_reference(query, *where, **limits), dtype)
