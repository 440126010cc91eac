"""Products of many experts give what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.grouped_matmul import check


@pytest.mark.parametrize("seed", range(200))
def test_every_row_meets_its_own_experts_alone(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
