"""Products with 4- and 8-bit weights against their reference."""

import torch

from sagellm_engine.kernels.packed_weight import pack
from sagellm_engine.kernels.quantized_matmul import quantized_matmul, quantized_matmul_reference
from sagellm_engine.weights import GroupQuantized

from .draws import FLOATS, Draws, assert_close


def check(draws: Draws) -> None:
    """One random case: the packed weight is the weight, and its product the product."""
    pick = draws.pick
    bits, group_size = pick.choice((4, 8)), pick.choice((16, 32, 64, 128, 160, 256))
    groups = draws.size(1, max(1, 400 // group_size), 4000 // group_size)
    rows, outputs, inputs = draws.size(1, 30, 300), draws.size(1, 50, 5000), groups * group_size
    values = torch.tensor([pick.randrange(2**bits) for _ in range(997)], dtype=torch.uint8)
    weight = GroupQuantized(
        values=values.repeat(outputs * inputs // 997 + 1)[: outputs * inputs].view(outputs, inputs),
        scales=draws.normal(outputs, groups).cpu() * 2.0**-bits,
        minimums=draws.normal(outputs, groups).cpu(),
        bits=bits,
        group_size=group_size,
    )
    packed = pack(weight, draws.device)
    assert packed.shape == weight.shape
    dtype = pick.choice(FLOATS)
    x = draws.strided(draws.normal(rows, inputs, dtype=dtype) * inputs**-0.5)
    bias = draws.normal(outputs) if pick.random() < 0.5 else None
    config = None
    if not draws.large:
        config = {"BLOCK_M": pick.choice((16, 32, 64)), "BLOCK_N": pick.choice((16, 64))}
        config |= {
            "UNROLL": pick.choice((1, 2)),
            "SPLIT_K": pick.choice((1, 1, 2)),
            "num_warps": 4,
            "num_stages": 2,
        }
    actual = quantized_matmul(x, packed, bias, config=config)
    expected = quantized_matmul_reference(x, packed, bias)
    assert_close(actual, expected, dtype)
    # Scales in 16 bits are no worse than float16 arithmetic.
    exact = torch.nn.functional.linear(x.float(), weight.dequantize().to(x.device), bias)
    assert_close(expected, exact, dtype if dtype is not torch.float32 else torch.float16)
