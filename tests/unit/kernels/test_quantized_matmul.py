"""Products with quantized weights give what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.quantized_matmul import check


@pytest.mark.parametrize("seed", range(200))
def test_products_of_packed_weights_are_those_of_the_weights(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
