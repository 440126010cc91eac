"""How much memory there is, and how much of it the KV cache takes."""

import os
from pathlib import Path

from sagellm_schemas import OutOfMemory

from .engine_config import EngineConfig

_AUTO_CAP_BYTES = 4 << 30
_AUTO_SHARE = 0.5
_AUTO_TOKENS_PER_SEQUENCE = 2048
_GIB = 1 << 30


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take: what the system has available, or its cgroup allows."""
    limits = [_system_available(root)]
    cgroup = root / "sys/fs/cgroup"
    try:
        limits.append(int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        pass
    return max(0, min(limits))


def check_weights(weight_bytes: int, free_bytes: int) -> None:
    """
    Raises:
        OutOfMemory: the weights will not fit.
    """
    if weight_bytes > free_bytes:
        raise OutOfMemory(
            f"the weights need {weight_bytes / _GIB:.1f} GiB and {free_bytes / _GIB:.1f} GiB of memory are available; "
            "use a smaller model, or dtype bfloat16 instead of float32"
        )


def kv_blocks(config: EngineConfig, token_bytes: int, model_max_len: int, free_bytes: int) -> tuple[int, int]:
    """Number of KV blocks, and the longest sequence (in tokens) that the engine can promise to finish.

    Raises:
        OutOfMemory: the blocks do not fit the memory, or one request of `max_model_len` does not fit the blocks.
    """
    block_bytes = config.block_size * token_bytes
    wanted_len = min(config.max_model_len or model_max_len, model_max_len)
    if config.num_blocks is not None:
        num_blocks = config.num_blocks
    elif config.kv_cache_bytes is not None:
        num_blocks = config.kv_cache_bytes // block_bytes
    else:
        useful = config.max_num_seqs * min(wanted_len, _AUTO_TOKENS_PER_SEQUENCE) * token_bytes
        roof = min(_AUTO_CAP_BYTES, int(free_bytes * _AUTO_SHARE))
        needed = wanted_len * token_bytes if config.max_model_len else 0
        num_blocks = -(-max(needed, min(useful, roof)) // block_bytes)
    if num_blocks * block_bytes > free_bytes:
        raise OutOfMemory(
            f"the KV cache needs {num_blocks * block_bytes / _GIB:.2f} GiB ({num_blocks} blocks of {config.block_size} "
            f"tokens) and {free_bytes / _GIB:.2f} GiB of memory are available; lower "
            f"{'num_blocks' if config.num_blocks else 'kv_cache_bytes' if config.kv_cache_bytes else 'max_model_len'}"
        )
    capacity = num_blocks * config.block_size
    if capacity < 2 or (config.max_model_len and capacity < wanted_len):
        raise OutOfMemory(
            f"the KV cache of {num_blocks * block_bytes / _GIB:.2f} GiB holds {capacity} tokens, but one request may "
            f"need {wanted_len}; lower max_model_len, or raise "
            f"{'num_blocks' if config.num_blocks else 'kv_cache_bytes'} ({free_bytes / _GIB:.2f} GiB are available)"
        )
    return num_blocks, min(wanted_len, capacity)


def _system_available(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
