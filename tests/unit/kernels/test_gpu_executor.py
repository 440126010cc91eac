"""The GPU's executor computes what the reference computes: on a GPU, or here in Triton's interpreter."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="kernels need triton")

from sagellm_engine.execution import Executor, Span
from sagellm_engine.execution.gpu import GpuExecutor, GpuPacker, awaited
from sagellm_engine.execution.row_sampling import RowSampling
from sagellm_engine.execution.torch_executor import TorchExecutor, TorchPacker

from .tiny_decoder import POSITIONS, random_tokens, tiny_decoder

Launch = tuple[list[int], list[int], list[Span], list[int]]

FAMILIES = {
    "llama": {},
    "biased": {"bias": True},
    "gemma": {"gemma": True},
    "quantized": {"quantized": True},
    "experts": {"experts": True},
}


def gpu_executor(device: torch.device, dtype: torch.dtype = torch.float32, **options: Any) -> GpuExecutor:
    kv_cache_dtype = options.pop("kv_cache_dtype", "auto")
    packer = GpuPacker(dtype, device)
    return GpuExecutor(
        tiny_decoder(packer, **options),
        packer,
        num_blocks=17,
        block_size=4,
        max_num_seqs=6,
        max_batched_tokens=64,
        max_model_len=POSITIONS,
        kv_cache_dtype=kv_cache_dtype,
    )


def scores(executor: Executor, launch: Launch) -> torch.Tensor:
    return executor.forward(*launch).logits.clone()


def step(*parts: tuple[list[int], int, int, list[int]]) -> Launch:
    """A step of (sequence's tokens, computed before, computed after, blocks); scores of each last row."""
    token_ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    rows: list[int] = []
    for tokens, start, end, blocks in parts:
        spans.append(Span(len(token_ids), end - start, start, blocks))
        token_ids += tokens[start:end]
        positions += range(start, end)
        rows.append(len(token_ids) - 1)
    return token_ids, positions, spans, rows


def conversation() -> list[Launch]:
    """A prompt in two chunks, a prompt that begins like it, decoding alone and beside a chunk."""
    first, second = random_tokens(20, 1), random_tokens(20, 1)[:8] + random_tokens(12, 2)
    third = random_tokens(12, 3)
    blocks, shared = [7, 2, 9, 4], [7, 2, 12, 3]
    others = [13, 14, 15, 16]
    return [
        step((first, 0, 5, blocks)),
        step((first, 5, 10, blocks), (third, 0, 3, others)),
        step((first, 10, 11, blocks), (second, 8, 12, shared), (third, 3, 5, others)),
        step((first, 11, 12, blocks), (second, 12, 13, shared), (third, 5, 6, others)),
        step((second, 13, 14, shared), (third, 6, 7, others), (first, 12, 14, blocks)),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_reference_s_in_prompts_chunks_decoding_and_after_prefix_hits(
    family: str, device: torch.device
) -> None:
    options = FAMILIES[family]
    reference = TorchExecutor(tiny_decoder(TorchPacker(torch.float32), **options), num_blocks=17, block_size=4)
    executor = gpu_executor(device, **options)
    for launch in conversation():
        torch.testing.assert_close(scores(executor, launch), scores(reference, launch), atol=1e-4, rtol=1e-4)


def test_a_cache_in_fp8_changes_scores_only_a_little(device: torch.device) -> None:
    exact, rounded = gpu_executor(device), gpu_executor(device, kv_cache_dtype="fp8")
    for launch in conversation()[:2]:
        expected, actual = scores(exact, launch), scores(rounded, launch)
        assert not torch.equal(actual, expected)
        assert torch.nn.functional.cosine_similarity(actual, expected).min() > 0.99


def test_16_bit_weights_give_scores_close_to_those_of_32_bits(device: torch.device) -> None:
    exact, rounded = gpu_executor(device), gpu_executor(device, torch.bfloat16)
    for launch in conversation()[:2]:
        similar = torch.nn.functional.cosine_similarity(scores(rounded, launch), scores(exact, launch))
        assert similar.min() > 0.995


def test_a_step_may_be_launched_before_the_tokens_it_goes_on_with_are_known(device: torch.device) -> None:
    greedy = RowSampling.greedy(2)
    prompts = random_tokens(9, 4), random_tokens(6, 5)
    blocks = [0, 1, 2, 3], [4, 5, 6, 7]
    first = step((prompts[0], 0, 9, blocks[0]), (prompts[1], 0, 6, blocks[1]))
    waited = gpu_executor(device)
    drawn = waited.launch(*first, greedy).tokens()
    following = step(([*prompts[0], drawn[0]], 9, 10, blocks[0]), ([*prompts[1], drawn[1]], 6, 7, blocks[1]))
    expected = waited.launch(*following, greedy).tokens()

    executor = gpu_executor(device)
    earlier = executor.launch(*first, greedy)
    later = executor.launch([awaited(0), awaited(1)], *following[1:], greedy)
    assert earlier.tokens() == drawn
    assert later.tokens() == expected


def test_tokens_are_drawn_from_the_scores_on_the_device(device: torch.device) -> None:
    launch = step((random_tokens(9, 4), 0, 9, [0, 1, 2]))
    executor = gpu_executor(device)
    row = scores(executor, launch)[0]
    drawn = executor.launch(*launch, RowSampling.greedy(1)).tokens()
    assert drawn == [int(row.argmax())]
    cumulative = np.cumsum(row.double().softmax(-1).numpy())
    drawn = executor.launch(*launch, RowSampling([1.0], [0], [1.0], [0.0], [0.25])).tokens()
    assert drawn == [int(np.searchsorted(cumulative, 0.25, side="right"))]


def test_cleared_blocks_hold_nothing(device: torch.device) -> None:
    executor = gpu_executor(device)
    prompt = random_tokens(12, 6)
    whole = scores(executor, step((prompt, 0, 12, [0, 1, 2])))
    executor.clear([0])
    cleared = scores(executor, step((prompt, 8, 12, [0, 1, 2])))
    assert not torch.allclose(whole, cleared)
    assert torch.isfinite(cleared).all()
