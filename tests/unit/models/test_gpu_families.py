"""Every family gives on the GPU's executor what transformers gives; here in Triton's interpreter."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from sagellm_engine.execution import Span
from sagellm_engine.execution.gpu import GpuExecutor, GpuPacker
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights

from .conftest import BLOCK, SavedModel
from .tiny_models import prompt_of

TOLERANCE = 1e-4


def executor_of(saved: SavedModel) -> GpuExecutor:
    checkpoint = open_checkpoint(str(saved.folder))
    packer = GpuPacker(torch.float32, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    longest = saved.tiny.max_model_len or 64
    return GpuExecutor(
        build(checkpoint.config, Weights(checkpoint.config, checkpoint.tensors(), packer), longest),
        packer,
        num_blocks=16,
        block_size=BLOCK,
        max_num_seqs=2,
        max_batched_tokens=64,
        max_model_len=longest,
    )


@torch.inference_mode()
def test_scores_in_chunks_decoding_and_after_a_prefix_hit_are_those_of_transformers(saved: SavedModel) -> None:
    first = prompt_of(12)
    second = first[: 2 * BLOCK] + prompt_of(2, seed=2)
    executor = executor_of(saved)
    blocks, shared = [5, 0, 3], [5, 0, 9]
    expected = saved.logits(first)
    with np.errstate(all="ignore"):
        for start, end in ((0, 6), (6, 10), (10, 11), (11, 12)):
            rows = end - start
            span = Span(0, rows, start, blocks)
            found = executor.forward(first[start:end], list(range(start, end)), [span], list(range(rows)))
            torch.testing.assert_close(found.logits, expected[start:end], rtol=0, atol=TOLERANCE)
        start = 2 * BLOCK
        rows = len(second) - start
        span = Span(0, rows, start, shared)
        found = executor.forward(second[start:], list(range(start, len(second))), [span], list(range(rows)))
    torch.testing.assert_close(found.logits, saved.logits(second)[start:], rtol=0, atol=TOLERANCE)
