"""Launch configurations: which block sizes, warps and stages an op runs with, kept in a committed table.

`tables/<op>.json` is `{GPU name: {shape class: configuration}}`. The GPU name "default" and the shape class "*"
stand for all that are not listed. `ops/bench/tune_kernels.py` searches on a GPU and writes its entries; nothing
searches when an engine starts.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

Config = Mapping[str, int]
"""Names in capitals are the kernel's own block sizes; `num_warps` and `num_stages` are the compiler's."""

TABLES = Path(__file__).parent / "tables"


def launch_config(op: str, shape_classes: tuple[str, ...], device: torch.device) -> Config:
    """The configuration of `op` for the first of `shape_classes`, finest first, that is known for this GPU."""
    table = read_table(op)
    for gpu in (_gpu_name(device), "default"):
        for name in (*shape_classes, "*"):
            if (config := table.get(gpu, {}).get(name)) is not None:
                return config
    raise KeyError(f"{op}.json has no default")


@cache
def read_table(op: str) -> dict[str, dict[str, dict[str, int]]]:
    """The table of `op`."""
    table: dict[str, dict[str, dict[str, int]]] = json.loads((TABLES / f"{op}.json").read_text())
    return table


@cache
def num_multiprocessors(device: torch.device) -> int:
    """How many programs run at once at least; on a CPU a small number, so that tests split work too."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "default"
