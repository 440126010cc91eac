"""Where a model runs."""

import importlib.util

import torch

from sagellm_engine.engine_config import EngineConfig
from sagellm_schemas import SettingsError


def device_of(config: EngineConfig) -> torch.device:
    """The GPU if it is asked for, or if there is one and nothing else is asked for.

    Raises:
        SettingsError: a GPU is asked for and there is none, or Triton is missing; or fp8 is asked for without one.
    """
    has_gpu, has_triton = torch.cuda.is_available(), importlib.util.find_spec("triton") is not None
    if config.device == "cuda" and not (has_gpu and has_triton):
        missing = "PyTorch sees no GPU" if has_triton else 'Triton is not installed: pip install "sagellm[gpu]"'
        raise SettingsError(f"device is cuda, but {missing}", param="device")
    on_gpu = config.device == "cuda" or (config.device == config.executor == "auto" and has_gpu and has_triton)
    if config.kv_cache_dtype == "fp8" and not on_gpu:
        raise SettingsError("kv_cache_dtype is fp8, which needs a GPU; leave it at auto", param="kv_cache_dtype")
    return torch.device("cuda" if on_gpu else "cpu")
