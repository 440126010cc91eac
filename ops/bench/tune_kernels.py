"""Search launch configurations on the GPU of this machine, and write them to the table that engines read.

    python ops/bench/tune_kernels.py --seconds 20 [--op paged_decode] [--out FOLDER]

For each class of shapes, configurations are tried in random order for so many seconds, compiling included, and the
one in use first; the fastest is kept under the GPU's name. Nothing searches when an engine starts.
"""

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu.timing import median_ms

from sagellm_engine.kernels import grouped_matmul, launch_table, paged_decode, paged_prefill, quantized_matmul
from sagellm_engine.kernels.grouped_matmul import ExpertOrder, ExpertWeights
from sagellm_engine.kernels.launch_table import Config, launch_config, read_table
from sagellm_engine.kernels.packed_weight import PackedWeight
from sagellm_engine.kernels.paged_attention_reference import PagedCache

_BLOCK_SIZE = 16


@dataclass(frozen=True)
class Task:
    """One class of shapes of one op: `run` a configuration; `choices` are the values to try of each name."""

    op: str
    shape_class: str
    run: Callable[[Config], object]
    choices: dict[str, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune kernels for this machine's GPU.")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each class of shapes")
    parser.add_argument("--op", choices=sorted(TASKS), action="append", help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=launch_table.TABLES, help="folder of the tables to write")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    gpu = torch.cuda.get_device_name()
    for op in arguments.op or sorted(TASKS):
        table = read_table(op)
        for task in TASKS[op]():
            table.setdefault(gpu, {})[task.shape_class] = dict(search(task, arguments.seconds))
            (arguments.out / f"{op}.json").write_text(_text(table), encoding="utf-8")


def search(task: Task, seconds: float) -> Config:
    """The fastest configuration found."""
    candidates = [
        dict(zip(task.choices, values, strict=True)) for values in itertools.product(*task.choices.values())
    ]
    random.Random(0).shuffle(candidates)
    best = launch_config(task.op, (task.shape_class,), torch.device("cuda"))
    best_ms = first_ms = median_ms(lambda: task.run(best))
    deadline = time.monotonic() + seconds
    tried = 0
    for candidate in candidates:
        if time.monotonic() > deadline:
            break
        tried += 1
        try:
            ms = median_ms(lambda config=candidate: task.run(config))
        except Exception as error:  # too much shared memory, too many registers
            print(f"  {candidate}: {type(error).__name__}")
            continue
        if ms < best_ms:
            best, best_ms = candidate, ms
    print(f"{task.op} {task.shape_class}: {first_ms:.4f} -> {best_ms:.4f} ms, {tried} tried: {best}", flush=True)
    return best


def decode_tasks() -> Iterator[Task]:
    """64 sequences of 4,096 tokens."""
    for head_dim, dtype in itertools.product((64, 128, 256), (torch.bfloat16, torch.float8_e4m3fn)):
        sequences, tokens = 64, 4096
        cache, tables, starts, lengths = _cache([tokens] * sequences, head_dim, dtype)
        query = torch.randn(sequences, 32, head_dim, dtype=torch.bfloat16, device="cuda")

        def run(
            config: Config,
            query: torch.Tensor = query,
            cache: PagedCache = cache,
            rest: tuple[torch.Tensor, ...] = (tables, starts, lengths),
        ) -> object:
            return paged_decode.paged_decode(query, cache, *rest, 4096, scale=0.1, config=config)

        yield Task(
            "paged_decode",
            paged_decode.shape_classes(head_dim, dtype)[0],
            run,
            {
                "BLOCK_N": (16, 32, 64, 128),
                "PROGRAMS_PER_SM": (2, 4, 8, 16),
                "num_warps": (2, 4, 8),
                "num_stages": (2, 3, 4, 5),
            },
        )


def prefill_tasks() -> Iterator[Task]:
    """Eight chunks of 512 rows, or of 8, after 1,024 tokens."""
    for head_dim, rows in itertools.product((64, 128, 256), (512, 8)):
        cache, tables, starts, lengths = _cache([1024 + rows] * 8, head_dim, torch.bfloat16)
        query = torch.randn(8 * rows, 32, head_dim, dtype=torch.bfloat16, device="cuda")
        row_starts = torch.arange(0, 8 * rows + 1, rows, dtype=torch.int32, device="cuda")

        def run(
            config: Config,
            query: torch.Tensor = query,
            cache: PagedCache = cache,
            rest: tuple[torch.Tensor, ...] = (tables, starts, row_starts, lengths),
            rows: int = rows,
        ) -> object:
            return paged_prefill.paged_prefill(query, cache, *rest, rows, scale=0.1, config=config)

        yield Task(
            "paged_prefill",
            paged_prefill.shape_classes(head_dim, rows * 4)[0],
            run,
            {
                "BLOCK_M": (64, 128) if rows == 512 else (16, 32, 64),
                "BLOCK_N": (32, 64, 128),
                "num_warps": (4, 8),
                "num_stages": (2, 3, 4),
            },
        )


def matmul_tasks() -> Iterator[Task]:
    """The products of Llama-3.2-1B and 3.1-8B, for few rows and for many."""
    shapes = ((3072, 2048), (16384, 2048), (2048, 8192), (6144, 4096), (28672, 4096), (4096, 14336))
    for (bits, group_size), rows in itertools.product(((4, 32), (4, 128), (8, 32)), (1, 32, 64, 512)):
        for outputs, inputs in shapes if rows == 1 else shapes[-1:]:
            weight = _weight(outputs, inputs, bits, group_size)
            x = torch.randn(rows, inputs, dtype=torch.bfloat16, device="cuda")
            classes = quantized_matmul.shape_classes(rows, weight)

            def run(config: Config, x: torch.Tensor = x, weight: PackedWeight = weight) -> object:
                return quantized_matmul.quantized_matmul(x, weight, config=config)

            yield Task(
                "quantized_matmul",
                classes[0] if rows == 1 else classes[1],
                run,
                {
                    "BLOCK_M": {1: (16,), 32: (16, 32), 64: (32, 64), 512: (64, 128)}[rows],
                    "BLOCK_N": (32, 64, 128, 256) if rows < 512 else (64, 128, 256),
                    "UNROLL": (1, 2, 4) if rows < 64 else (1, 2),
                    "SPLIT_K": (1, 2, 4, 8, 16) if rows < 64 else (1, 2),
                    "num_warps": (4, 8),
                    "num_stages": (2, 3, 4, 5),
                },
            )


def expert_tasks() -> Iterator[Task]:
    """The products of Qwen3-30B-A3B's 128 experts, 8 a row, for decoding and for prompts."""
    num_experts, top_k, inputs, outputs = 128, 8, 2048, 1536
    dense = [torch.randn(outputs, inputs, dtype=torch.bfloat16, device="cuda") for _ in range(num_experts)]
    weights = ExpertWeights(dense)
    for rows in (32, 4096):
        x = torch.randn(rows, inputs, dtype=torch.bfloat16, device="cuda")
        chosen = torch.rand(rows, num_experts, device="cuda").topk(top_k).indices
        order = ExpertOrder.of(chosen, num_experts)

        def run(config: Config, x: torch.Tensor = x, order: ExpertOrder = order) -> object:
            return grouped_matmul.grouped_matmul(x, weights, order, config=config)

        yield Task(
            "grouped_matmul",
            grouped_matmul.shape_classes(rows * top_k, num_experts)[0],
            run,
            {
                "BLOCK_M": (16, 32) if rows == 32 else (64, 128),
                "BLOCK_N": (32, 64, 128, 256),
                "BLOCK_K": (32, 64, 128),
                "num_warps": (4, 8),
                "num_stages": (3, 4, 5),
            },
        )


TASKS: dict[str, Callable[[], Iterator[Task]]] = {
    "grouped_matmul": expert_tasks,
    "paged_decode": decode_tasks,
    "paged_prefill": prefill_tasks,
    "quantized_matmul": matmul_tasks,
}


def _cache(
    tokens: list[int], head_dim: int, dtype: torch.dtype
) -> tuple[PagedCache, torch.Tensor, torch.Tensor, torch.Tensor]:
    each = -(-max(tokens) // _BLOCK_SIZE)
    num_blocks = len(tokens) * each
    kv = torch.randn(num_blocks, 2, 8, _BLOCK_SIZE, head_dim, dtype=torch.bfloat16, device="cuda").to(dtype)
    scale = torch.ones(8, device="cuda") if dtype.itemsize == 1 else None
    tables = torch.randperm(num_blocks, dtype=torch.int32, device="cuda")
    starts = torch.arange(0, num_blocks, each, dtype=torch.int32, device="cuda")
    lengths = torch.tensor(tokens, dtype=torch.int32, device="cuda")
    return PagedCache(kv[:, 0], kv[:, 1], scale, scale), tables, starts, lengths


def _weight(outputs: int, inputs: int, bits: int, group_size: int) -> PackedWeight:
    groups = inputs // group_size
    values = torch.randint(0, 256, (groups, outputs, group_size * bits // 8), dtype=torch.uint8, device="cuda")
    scales = torch.rand(groups, outputs, dtype=torch.float16, device="cuda")
    return PackedWeight(values, scales, scales, bits, group_size)


def _text(table: dict[str, dict[str, dict[str, int]]]) -> str:
    """JSON with one configuration a line."""
    gpus = []
    for gpu, classes in table.items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(config)}" for name, config in classes.items())
        gpus.append(f"  {json.dumps(gpu)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(gpus) + "\n}\n"


if __name__ == "__main__":
    main()
