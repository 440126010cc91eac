"""Products of a mixture of experts against their reference."""

import torch

from sagellm_engine.kernels.grouped_matmul import (
    ExpertOrder,
    ExpertWeights,
    grouped_matmul,
    grouped_matmul_reference,
)

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case; some experts have no rows."""
    pick = draws.pick
    num_experts, top_k = draws.size(1, 9, 128), pick.randint(1, 3)
    rows, inputs, outputs = draws.size(1, 20, 600), draws.size(1, 90, 2000), draws.size(1, 50, 1500)
    used = pick.sample(range(num_experts), pick.randint(1, num_experts))
    chosen = torch.tensor([[pick.choice(used) for _ in range(top_k)] for _ in range(rows)], device=draws.device)
    dtype = pick.choice(FLOATS)
    dense = [draws.normal(outputs, inputs, dtype=dtype) * inputs**-0.5 for _ in range(num_experts)]
    weights = ExpertWeights(dense)
    shared = pick.random() < 0.5
    x = draws.normal(rows if shared else rows * top_k, inputs, dtype=dtype)
    shares = draws.uniform(rows * top_k).float() if pick.random() < 0.5 else None
    config = None
    if not draws.large:
        config = {"BLOCK_M": 16, "BLOCK_N": pick.choice((16, 32)), "BLOCK_K": pick.choice((32, 64))}
        config |= {"num_warps": 4, "num_stages": 2}
    order = ExpertOrder.of(chosen, num_experts)
    actual = grouped_matmul(x, weights, order, shares=shares, config=config)
    assert_close(actual, grouped_matmul_reference(x, weights, order, shares=shares), dtype)
