"""Which executor runs a model here, and the room that is left for its KV cache."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import Checkpoint
from sagellm_engine.loader.on_load import quantize_on_load, weight_bytes
from sagellm_engine.loader.progress import LoadProgress, reported
from sagellm_engine.memory import available_bytes, check_weights, kv_blocks
from sagellm_engine.models import build
from sagellm_engine.models.weights import Weights
from sagellm_engine.weights import Weight
from sagellm_schemas import OutOfMemory

from .device import device_of
from .drawing import DrawingExecutor
from .executor import Executor
from .native import KernelsUnavailableError, NativeExecutor, NativePacker, block_bytes, load_library
from .torch_executor import TorchExecutor, TorchPacker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """An executor with the model loaded, and what its KV cache has room for."""

    executor: Executor
    num_blocks: int
    max_model_len: int
    drawing: DrawingExecutor | None = None
    """The executor itself, if it can draw tokens too."""


def make_executor(
    config: EngineConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    progress: LoadProgress | None = None,
    draft: ModelConfig | None = None,
) -> Made:
    """Load the weights for the fastest executor that `config` allows and this machine has.

    `progress` is told how far the weights are loaded. The memory has room for a KV cache of `draft`, too, with as
    many blocks.

    Raises:
        SettingsError: a model that is quantized is to be quantized, or there is no GPU to run it on.
        ModelLoadError: the weights cannot be read, or the model does something not known here.
        OutOfMemory: weights or KV cache do not fit.
        KernelsUnavailableError: compiled kernels are asked for and cannot be had.
    """
    try:
        if device_of(config).type == "cuda":
            from .gpu.make import make_gpu_executor  # here, because Triton is where a GPU is

            return make_gpu_executor(config, checkpoint, dtype, _tensors(config, checkpoint, progress), draft)
        if config.executor != "torch":
            try:
                return _native(config, checkpoint, dtype, progress, draft)
            except KernelsUnavailableError as error:
                if config.executor == "native":
                    raise
                log.warning("%s: computing with PyTorch instead, which is slower", error.message)
        return _torch(config, checkpoint, dtype, progress, draft)
    except (RuntimeError, OSError) as error:  # the allocators' own way to say so
        raise OutOfMemory(f"the KV cache cannot be allocated ({error}); lower kv_cache_bytes") from error


def _native(
    config: EngineConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    progress: LoadProgress | None,
    draft: ModelConfig | None,
) -> Made:
    library = load_library()
    model = checkpoint.config
    check_weights(weight_bytes(checkpoint, config.quantization, dtype.itemsize), available_bytes())
    weights = Weights(model, _tensors(config, checkpoint, progress), NativePacker(library, dtype))

    def layer_bytes(of: ModelConfig) -> int:
        return block_bytes(of.num_kv_heads, of.head_dim, config.block_size, dtype)

    num_blocks, longest = _room(config, model, draft, layer_bytes)
    executor = NativeExecutor(
        library,
        build(model, weights, longest, config.max_model_len or model.max_position_embeddings),
        num_blocks=num_blocks,
        block_size=config.block_size,
        kv_dtype=dtype,
        num_threads=config.num_threads or len(os.sched_getaffinity(0)),
    )
    return Made(executor, num_blocks, longest)


def _torch(
    config: EngineConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    progress: LoadProgress | None,
    draft: ModelConfig | None,
) -> Made:
    model = checkpoint.config
    inflated_bytes = sum(math.prod(shape) for shape in checkpoint.shapes().values()) * dtype.itemsize
    check_weights(inflated_bytes, available_bytes())
    weights = Weights(model, _tensors(config, checkpoint, progress), TorchPacker(dtype))

    def layer_bytes(of: ModelConfig) -> int:
        return 2 * of.num_kv_heads * of.head_dim * config.block_size * torch.float32.itemsize

    num_blocks, longest = _room(config, model, draft, layer_bytes)
    decoder = build(model, weights, longest, config.max_model_len or model.max_position_embeddings)
    return Made(TorchExecutor(decoder, num_blocks, config.block_size), num_blocks, longest)


def _tensors(
    config: EngineConfig, checkpoint: Checkpoint, progress: LoadProgress | None
) -> Iterator[tuple[str, Weight]]:
    tensors = quantize_on_load(checkpoint, config.quantization)
    return tensors if progress is None else reported(tensors, checkpoint.shapes(), progress)


def _room(
    config: EngineConfig, model: ModelConfig, draft: ModelConfig | None, layer_bytes: Callable[[ModelConfig], int]
) -> tuple[int, int]:
    """Number of KV blocks and longest sequence, where a block takes `layer_bytes` in each layer of a model."""
    models = [model] if draft is None else [model, draft]
    token_bytes = sum(of.num_layers * layer_bytes(of) for of in models) // config.block_size
    return kv_blocks(config, token_bytes, model.max_position_embeddings, available_bytes())
