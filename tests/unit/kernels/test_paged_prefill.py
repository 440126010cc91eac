"""Prefill attention gives what plain PyTorch gives."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from .parity.draws import Draws
from .parity.paged_prefill import check


@pytest.mark.parametrize("seed", range(200))
def test_rows_of_a_chunk_attend_to_what_came_before_them(seed: int, device: torch.device) -> None:
    check(Draws(seed, device))
