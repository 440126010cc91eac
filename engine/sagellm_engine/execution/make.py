"""Which executor runs a model here, and the room that is left for its KV cache."""

import logging
import os
from dataclasses import dataclass

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import Checkpoint
from sagellm_engine.memory import available_bytes, kv_blocks
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights
from sagellm_schemas import OutOfMemory

from .executor import Executor
from .native import KernelsUnavailableError, NativeExecutor, NativePacker, load_library
from .torch_executor import TorchExecutor, TorchPacker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """An executor with the model loaded, and what its KV cache has room for."""

    executor: Executor
    num_blocks: int
    max_model_len: int


def make_executor(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    """Load the weights for the fastest executor that `config` allows and this machine has.

    Raises:
        ModelLoadError: the weights cannot be read, or the model does something not known here.
        OutOfMemory: weights or KV cache do not fit.
        KernelsUnavailableError: compiled kernels are asked for and cannot be had.
    """
    try:
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


def _native(config: EngineConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> Made:
    library = load_library()
    model = checkpoint.config
    weights = Weights(model, checkpoint.tensors(), NativePacker(library, dtype))
    num_blocks, longest = _room(config, model, dtype)
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
    num_blocks, longest = _room(config, model, torch.float32)
    return Made(TorchExecutor(build(model, weights, longest), num_blocks, config.block_size), num_blocks, longest)


def _room(config: EngineConfig, model: ModelConfig, kv_dtype: torch.dtype) -> tuple[int, int]:
    token_bytes = model.num_layers * 2 * model.num_kv_heads * model.head_dim * kv_dtype.itemsize
    return kv_blocks(config, token_bytes, model.max_position_embeddings, available_bytes())
