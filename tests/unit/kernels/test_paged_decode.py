"""Decode attention gives what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.paged_decode import check


@pytest.mark.parametrize("seed", range(200))
def test_decoding_rows_attend_to_their_own_blocks_alone(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
