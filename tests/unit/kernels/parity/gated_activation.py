"""SwiGLU and GeGLU against their reference."""

from sagellm_engine.kernels.gated_activation import ACTIVATIONS, gated_activation, gated_activation_reference

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case."""
    dtype, activation = draws.pick.choice(FLOATS), draws.pick.choice(ACTIVATIONS)
    rows, size = draws.size(1, 4, 300), draws.size(1, 1500, 15000)
    gate_up = draws.strided(draws.normal(rows, 2 * size, dtype=dtype) * draws.pick.choice((1.0, 30.0)))
    assert_close(gated_activation(gate_up, activation), gated_activation_reference(gate_up, activation), dtype)
