"""Times on a GPU, and what they are compared with."""

import statistics
from collections.abc import Callable

import torch
import triton


def median_ms(run: Callable[[], object], *, graph: bool = True) -> float:
    """How long the GPU takes for `run`: as a CUDA graph, without what launching costs, or kernel by kernel."""
    bench = triton.testing.do_bench_cudagraph if graph else triton.testing.do_bench
    return float(bench(run, return_mode="median"))


def copy_bytes_per_s() -> float:
    """Bytes read and written per second by a device-to-device copy of 2 GiB."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times_ms = [median_ms(lambda: target.copy_(source), graph=False) for _ in range(3)]
    return 2 * source.numel() / (statistics.median(times_ms) / 1e3)
