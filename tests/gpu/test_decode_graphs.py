"""Decode steps as CUDA graphs."""

import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from sagellm_engine.execution import Span
from sagellm_engine.execution.gpu import GpuExecutor, GpuPacker
from sagellm_engine.execution.row_sampling import RowSampling

from ..unit.kernels.tiny_decoder import POSITIONS, random_tokens, tiny_decoder  # noqa: TID252

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def executor(*, graphs: bool) -> GpuExecutor:
    packer = GpuPacker(torch.float32, torch.device("cuda"))
    return GpuExecutor(
        tiny_decoder(packer, gemma=True),
        packer,
        num_blocks=24,
        block_size=4,
        max_num_seqs=6,
        max_batched_tokens=64,
        max_model_len=POSITIONS,
        graphs=graphs,
    )


def test_a_graph_gives_the_scores_that_its_kernels_give_one_by_one() -> None:
    with_graphs, without = executor(graphs=True), executor(graphs=False)
    with_graphs.capture_graphs(lambda done, total: None)
    sequences = [random_tokens(20, seed) for seed in range(6)]
    blocks = [list(range(4 * place, 4 * place + 4)) for place in range(6)]
    for both in (with_graphs, without):
        for tokens, own in zip(sequences, blocks, strict=True):
            both.forward(tokens[:5], list(range(5)), [Span(0, 5, 0, own)], [4])
    for count in (6, 5, 3, 2, 1):  # 5 and 3 are padded
        at = 5 + 6 - count
        spans = [Span(row, 1, at, blocks[row]) for row in range(count)]
        step = ([sequences[row][at] for row in range(count)], [at] * count, spans, list(range(count)))
        expected = without.forward(*step)
        actual = with_graphs.forward(*step)
        torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=1e-4)
        assert actual.best == expected.best


def test_launching_a_step_waits_for_nothing() -> None:
    runs = executor(graphs=True)
    runs.capture_graphs(lambda done, total: None)
    step = ([3], [0], [Span(0, 1, 0, [0, 1])], [0], RowSampling.greedy(1))
    runs.launch(*step).tokens()
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = [runs.launch(*step) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched[0].tokens() == launched[1].tokens()
