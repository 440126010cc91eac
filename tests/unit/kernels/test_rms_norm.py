"""Sum and norm give what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.rms_norm import check


@pytest.mark.parametrize("seed", range(200))
def test_the_norm_is_of_the_sum_and_the_sum_is_kept(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
