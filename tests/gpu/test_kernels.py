"""Every kernel on the GPU itself, with shapes that keep it busy, against the same references."""

import importlib

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from ..unit.kernels.parity.draws import Draws  # noqa: TID252

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

OPS = (
    "gated_activation",
    "grouped_matmul",
    "paged_decode",
    "paged_prefill",
    "quantized_matmul",
    "rms_norm",
    "rotary_kv_write",
    "sampling",
)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("op", OPS)
def test_a_gpu_gives_what_plain_pytorch_gives(op: str, seed: int) -> None:
    parity = importlib.import_module(f"..unit.kernels.parity.{op}", __package__)
    parity.check(Draws(seed, torch.device("cuda"), large=True))
