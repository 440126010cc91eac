"""Gated activations give what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.gated_activation import check


@pytest.mark.parametrize("seed", range(200))
def test_the_gate_opens_as_far_as_its_activation_says(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
