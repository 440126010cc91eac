"""256 sequences of Qwen3-0.6B's shape: our scheduler and executor, and transformers' continuous batching."""

import time
from typing import Any

import torch

from sagellm_engine.block_manager import BlockManager
from sagellm_engine.execution import Span
from sagellm_engine.execution.gpu import GpuExecutor
from sagellm_engine.row_draws import row_draws
from sagellm_engine.scheduler import Scheduler
from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams

from .shapes import QWEN3_600M, random_executor

_SEQUENCES, _IN, _OUT, _BUDGET = 256, 128, 128, 8192


def many_streams_case() -> dict[str, Any]:
    """Output tokens per second of both, token ids in and out, the second of two runs."""
    generator = torch.Generator().manual_seed(1)
    prompts: list[list[int]] = torch.randint(0, 50_000, (_SEQUENCES, _IN), generator=generator).tolist()
    executor = random_executor(QWEN3_600M, num_seqs=_SEQUENCES, num_tokens=_BUDGET, longest=512)
    _run(executor, prompts)
    ours = _run(executor, prompts)
    del executor
    torch.cuda.empty_cache()
    theirs = _transformers(prompts)
    return {
        "what": f"Qwen3-0.6B shape, {_SEQUENCES} sequences, {_IN} in and {_OUT} out",
        "tokens_per_s": ours,
        "transformers_tokens_per_s": theirs,
        "times_transformers": ours / theirs,
    }


def _run(executor: GpuExecutor, prompts: list[list[int]]) -> float:
    blocks = BlockManager(_SEQUENCES * 32 + 1, 16, enable_prefix_caching=False)
    scheduler = Scheduler(blocks, max_num_seqs=_SEQUENCES, max_batched_tokens=_BUDGET)
    greedy = SamplingParams(temperature=0.0)
    for place, prompt in enumerate(prompts):
        scheduler.add(Sequence(str(place), prompt, greedy, max_tokens=_OUT, arrival=place))
    torch.cuda.synchronize()
    started = time.perf_counter()
    while plan := scheduler.schedule():
        sequences = sorted(plan, key=lambda s: plan[s] > 1)
        token_ids: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        rows: list[int] = []
        drawing: list[Sequence] = []
        for sequence in sequences:
            start, end = sequence.num_computed, sequence.num_computed + plan[sequence]
            spans.append(Span(len(token_ids), end - start, start, sequence.blocks))
            token_ids += sequence.token_ids[start:end]
            positions += range(start, end)
            if end == len(sequence.token_ids):
                drawing.append(sequence)
                rows.append(len(token_ids) - 1)
        draws = row_draws(drawing)
        assert draws is not None, "greedy sequences are drawn on the device"
        step = executor.launch(token_ids, positions, spans, rows, draws)
        scheduler.complete(plan)
        for sequence, token in zip(drawing, step.tokens(), strict=True):
            sequence.token_ids.append(token)
            if sequence.num_output == _OUT:
                scheduler.remove(sequence)
    return len(prompts) * _OUT / (time.perf_counter() - started)


def _transformers(prompts: list[list[int]]) -> float:
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    shape = {name: value for name, value in QWEN3_600M.items() if name not in ("architectures", "dtype")}
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(Qwen3Config(**shape)).to(torch.bfloat16).eval()
    settings = GenerationConfig(max_new_tokens=_OUT, do_sample=False, eos_token_id=-1, pad_token_id=0)
    speeds = []
    for _ in range(2):
        started = time.perf_counter()
        outputs = model.generate_batch(inputs=prompts, generation_config=settings)
        seconds = time.perf_counter() - started
        speeds.append(sum(len(output.generated_tokens) for output in outputs.values()) / seconds)
    return speeds[-1]
