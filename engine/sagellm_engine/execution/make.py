"""Which executor runs a model here, and the room that is left for its KV cache."""

import dataclasses
import importlib.util
import logging
import os
from dataclasses import dataclass

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import Checkpoint
from sagellm_engine.memory import available_bytes, free_gpu_bytes, kv_blocks
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights
from sagellm_schemas import OutOfMemory, SettingsError

from .drawing import DrawingExecutor
from .executor import Executor
from .native import KernelsUnavailableError, NativeExecutor, NativePacker, load_library
from .torch_executor import TorchExecutor, TorchPacker

log = logging.getLogger(__name__)

_GPU_SHARE = 0.95
"""Of what is free on a GPU after the weights, the KV cache takes so much."""


@dataclass(frozen=True, slots=True)
class Made:
    """An executor with the model loaded, and what its KV cache has room for."""

    executor: Executor
    num_blocks: int
    max_model_len: int
    drawing: DrawingExecutor | None = None
    """The executor itself, if it can draw tokens too."""


def make_executor(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    """Load the weights for the fastest executor that `config` allows and this machine has.

    Raises:
        ModelLoadError: the weights cannot be read, or the model does something not known here.
        OutOfMemory: weights or KV cache do not fit.
        KernelsUnavailableError: compiled kernels are asked for and cannot be had.
    """
    try:
        if device_of(config).type == "cuda":
            return _gpu(config, checkpoint, dtype)
        if config.executor != "torch":
            try:
                return _native(config, checkpoint, dtype)
            except KernelsUnavailableError as error:
                if config.executor == "native":
                    raise
                log.warning("%s: computing with PyTorch instead, which is slower", error.message)
        return _torch(config, checkpoint, dtype)
    except (RuntimeError, OSError) as error:  # the allocators' own way to say so
        raise OutOfMemory(f"the KV cache cannot be allocated ({error}); lower kv_cache_bytes") from error


def device_of(config: EngineConfig) -> torch.device:
    """Where a model runs: on the GPU if it is asked for, or if there is one and nothing else is asked for.

    Raises:
        SettingsError: a GPU is asked for and there is none, or Triton is missing.
    """
    has_gpu, has_triton = torch.cuda.is_available(), importlib.util.find_spec("triton") is not None
    if config.device == "cuda" and not (has_gpu and has_triton):
        missing = "PyTorch sees no GPU" if has_triton else "Triton is not installed (pip install sagellm[gpu])"
        raise SettingsError(f"device is cuda, but {missing}", param="device")
    on_gpu = config.device == "cuda" or (config.device == config.executor == "auto" and has_gpu and has_triton)
    if config.kv_cache_dtype == "fp8" and not on_gpu:
        raise SettingsError("kv_cache_dtype is fp8, which needs a GPU; leave it at auto", param="kv_cache_dtype")
    return torch.device("cuda" if on_gpu else "cpu")


def _gpu(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    from .gpu import GpuExecutor, GpuPacker, cache_dtype  # Triton is there on machines with a GPU only

    model = checkpoint.config
    packer = GpuPacker(dtype, torch.device("cuda"))
    weights = Weights(model, checkpoint.tensors(), packer)
    free_bytes = free_gpu_bytes()
    if config.num_blocks is None and config.kv_cache_bytes is None:
        # Nobody else wants a GPU's memory, unlike a laptop's; but no more than all sequences can fill.
        token_bytes = _token_bytes(model, cache_dtype(config.kv_cache_dtype, dtype))
        longest = config.max_model_len or model.max_position_embeddings
        useful_bytes = config.max_num_seqs * longest * token_bytes
        config = dataclasses.replace(config, kv_cache_bytes=min(useful_bytes, int(free_bytes * _GPU_SHARE)))
    num_blocks, longest = _room(config, model, cache_dtype(config.kv_cache_dtype, dtype), free_bytes)
    executor = GpuExecutor(
        build(model, weights, longest),
        packer,
        num_blocks,
        config.block_size,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        max_model_len=longest,
        kv_cache_dtype=config.kv_cache_dtype,
    )
    return Made(executor, num_blocks, longest, drawing=executor)


def _native(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    library = load_library()
    model = checkpoint.config
    weights = Weights(model, checkpoint.tensors(), NativePacker(library, dtype))
    num_blocks, longest = _room(config, model, dtype, available_bytes())
    executor = NativeExecutor(
        library,
        build(model, weights, longest),
        num_blocks=num_blocks,
        block_size=config.block_size,
        kv_dtype=dtype,
        num_threads=config.num_threads or len(os.sched_getaffinity(0)),
    )
    return Made(executor, num_blocks, longest)


def _torch(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    model = checkpoint.config
    weights = Weights(model, checkpoint.tensors(), TorchPacker(dtype))
    num_blocks, longest = _room(config, model, torch.float32, available_bytes())
    return Made(TorchExecutor(build(model, weights, longest), num_blocks, config.block_size), num_blocks, longest)


def _room(config: EngineConfig, model: ModelConfig, kv_dtype: torch.dtype, free_bytes: int) -> tuple[int, int]:
    return kv_blocks(config, _token_bytes(model, kv_dtype), model.max_position_embeddings, free_bytes)


def _token_bytes(model: ModelConfig, kv_dtype: torch.dtype) -> int:
    return model.num_layers * 2 * model.num_kv_heads * model.head_dim * kv_dtype.itemsize
