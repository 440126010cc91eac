"""Rotation and cache hold what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.rotary_kv_write import check


@pytest.mark.parametrize("seed", range(200))
def test_queries_turn_and_keys_and_values_reach_their_slots_alone(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
