"""How much memory there is, and how much of it the KV cache takes."""

import os
from pathlib import Path

import torch

from sagellm_schemas import OutOfMemory, SettingsError

from .engine_config import EngineConfig

_AUTO_CAP_BYTES = 4 << 30
_AUTO_SHARE = 0.5
_GPU_WORK_BYTES = 2 << 30
_AUTO_TOKENS_PER_SEQUENCE = 2048


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take: what the system has available, or its cgroup allows."""
    limits = [_system_available(root)]
    cgroup = root / "sys/fs/cgroup"
    try:
        limits.append(int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        pass
    return max(0, min(limits))


def free_gpu_bytes() -> int:
    """Memory of the GPU that is free, less what the steps' intermediate results and CUDA graphs may take."""
    return max(0, torch.cuda.mem_get_info()[0] - _GPU_WORK_BYTES)


def check_weights(weight_bytes: int, free_bytes: int) -> None:
    """
    Raises:
        OutOfMemory: the weights will not fit.
    """
    if weight_bytes > free_bytes:
        raise OutOfMemory(
            f"the weights need {_gib(weight_bytes)} and {_gib(free_bytes)} of memory are available; "
            "use a smaller model, or dtype bfloat16 instead of float32"
        )


def check_context(config: EngineConfig, model_max_len: int) -> None:
    """
    Raises:
        SettingsError: `max_model_len` is beyond what the model can do.
    """
    if config.max_model_len is not None and config.max_model_len > model_max_len:
        raise SettingsError(
            f"max_model_len is {config.max_model_len}, but the model's context is {model_max_len} tokens",
            param="max_model_len",
        )


def kv_blocks(config: EngineConfig, token_bytes: int, model_max_len: int, free_bytes: int) -> tuple[int, int]:
    """Number of KV blocks, and the longest sequence (in tokens) that the engine can promise to finish.

    Raises:
        OutOfMemory: the blocks do not fit the memory, or one request of `max_model_len` does not fit the blocks.
    """
    longest = config.max_model_len or model_max_len
    block_bytes = config.block_size * token_bytes
    setting = "num_blocks" if config.num_blocks else "kv_cache_bytes"
    if config.num_blocks is not None:
        num_blocks = config.num_blocks
    elif config.kv_cache_bytes is not None:
        num_blocks = config.kv_cache_bytes // block_bytes
    else:
        useful_bytes = config.max_num_seqs * min(longest, _AUTO_TOKENS_PER_SEQUENCE) * token_bytes
        wanted_bytes = min(useful_bytes, _AUTO_CAP_BYTES, int(free_bytes * _AUTO_SHARE))
        if config.max_model_len is not None:
            setting = "max_model_len"
            wanted_bytes = max(wanted_bytes, longest * token_bytes)
        num_blocks = -(-wanted_bytes // block_bytes)
    if num_blocks * block_bytes > free_bytes:
        raise OutOfMemory(
            f"the KV cache needs {_gib(num_blocks * block_bytes)} ({num_blocks} blocks of {config.block_size} "
            f"tokens) and {_gib(free_bytes)} of memory are available; lower {setting}"
        )
    capacity = num_blocks * config.block_size
    if capacity < 2 or (config.max_model_len is not None and capacity < longest):
        raise OutOfMemory(
            f"the KV cache of {_gib(num_blocks * block_bytes)} holds {capacity} tokens, but one request may need "
            f"{longest}; lower max_model_len, or raise {setting} ({_gib(free_bytes)} of memory are available)"
        )
    return num_blocks, min(longest, capacity)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"


def _system_available(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
