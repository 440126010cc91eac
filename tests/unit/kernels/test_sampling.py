"""Sampling on the device draws what the CPU's sampler draws."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.sampling import check


@pytest.mark.parametrize("seed", range(200))
def test_the_same_numbers_draw_the_same_tokens(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
