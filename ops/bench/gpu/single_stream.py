"""One stream: what share of the time that streaming the weights takes at least a decode step takes."""

import time
from typing import Any

import torch

from sagellm_engine.execution import Span
from sagellm_engine.execution.gpu import awaited
from sagellm_engine.execution.row_sampling import RowSampling

from .shapes import LLAMA_1B, LLAMA_8B, random_executor, weight_bytes

_PROMPT, _WARM, _STEPS = 128, 16, 256


def single_stream_cases(copy_bytes_per_s: float) -> list[dict[str, Any]]:
    """Llama-3.2-1B's and 3.1-8B's shape, 128 tokens in and 256 timed steps, launched ahead by one."""
    return [_case(name, shape, copy_bytes_per_s) for name, shape in (("Llama-3.2-1B", LLAMA_1B), ("8B", LLAMA_8B))]


def _case(name: str, shape: dict[str, Any], copy_bytes_per_s: float) -> dict[str, Any]:
    longest = 1024
    executor = random_executor(shape, num_seqs=1, num_tokens=_PROMPT, longest=longest)
    blocks, greedy = list(range(longest // 16)), RowSampling.greedy(1)
    prompt = list(range(_PROMPT))
    executor.launch(prompt, prompt, [Span(0, _PROMPT, 0, blocks)], [_PROMPT - 1], greedy)
    before = None
    started = 0.0
    for place in range(_PROMPT, _PROMPT + _WARM + _STEPS):
        if place == _PROMPT + _WARM:
            torch.cuda.synchronize()
            started = time.perf_counter()
        step = executor.launch([awaited(0)], [place], [Span(0, 1, place, blocks)], [0], greedy)
        if before is not None:
            before.tokens()
        before = step
    torch.cuda.synchronize()
    ms = (time.perf_counter() - started) / _STEPS * 1e3
    floor_ms = weight_bytes(shape) / copy_bytes_per_s * 1e3
    return {
        "what": f"decode step, {name} shape, batch 1",
        "ms": ms,
        "tokens_per_s": 1e3 / ms,
        "weight_bytes": weight_bytes(shape),
        "floor_ms": floor_ms,
        "share_of_weight_streaming_floor": floor_ms / ms,
    }
