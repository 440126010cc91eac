"""Paged decode attention against its reference."""

from sagellm_engine.kernels.paged_decode import paged_decode, paged_decode_reference

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case."""
    pick = draws.pick
    kv_heads, group = pick.choice((1, 1, 2)), pick.choice((1, 2, 3, 4, 7, 8))
    head_dim = pick.choice((8, 16, 40, 64, 80, 96, 128, 160, 256))
    block_size = pick.choice((1, 4, 16, 16, 32))
    lengths = [draws.size(0, 70, 5000) for _ in range(draws.size(1, 2, 40))]
    tables, starts, num_blocks = draws.tables(lengths, block_size)
    cache = draws.cache(num_blocks, kv_heads, block_size, head_dim)
    dtype = pick.choice(FLOATS)
    query = draws.strided(draws.normal(len(lengths), kv_heads * group, head_dim, dtype=dtype))
    limits = {
        "scale": head_dim**-0.5 * pick.uniform(0.5, 2.0),
        "window": pick.choice((0, 0, draws.size(1, 60, 3000))),
        "softcap": pick.choice((0.0, 0.0, 3.0, 50.0)),
    }
    splits = pick.choice((None, 1, 2, 3))
    config = None
    if not draws.large:
        config = {"BLOCK_N": pick.choice((16, 32)), "PROGRAMS_PER_SM": 4, "num_warps": 4, "num_stages": 2}
    where = (cache, tables, starts, draws.ints(lengths))
    actual = paged_decode(query, *where, max(lengths) or 1, splits=splits, config=config, **limits)
    assert_close(actual, paged_decode_reference(query, *where, **limits), dtype)
