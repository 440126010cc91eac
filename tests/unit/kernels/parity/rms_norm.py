"""Residual sum and norm against their reference."""

import torch

from sagellm_engine.kernels.rms_norm import add_rms_norm, add_rms_norm_reference

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case."""
    pick = draws.pick
    rows, size = draws.size(1, 5, 600), draws.size(1, 300, 9000)
    kind, dtype, stream = pick.choice(("first", "plain", "post", "last")), pick.choice(FLOATS), pick.choice(FLOATS)
    weight = None if kind == "last" else draws.normal(size)
    post = draws.normal(size) if kind in ("post", "last") else None
    y = None if kind == "first" else draws.strided(draws.normal(rows, size, dtype=dtype))
    residual = draws.normal(rows, size, dtype=stream)
    expected_residual = residual.clone()
    arguments = {"eps": 1e-5, "dtype": dtype, "post_weight": post}
    actual = add_rms_norm(y, residual, weight, **arguments)
    expected = add_rms_norm_reference(y, expected_residual, weight, **arguments)
    assert_close(residual, expected_residual, stream)
    if kind == "last":
        assert actual is None
    else:
        assert isinstance(actual, torch.Tensor)
        assert isinstance(expected, torch.Tensor)
        assert_close(actual, expected, dtype)
