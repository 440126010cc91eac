"""Our own engine, made from the settings."""

from functools import partial

from sagellm.settings import Settings
from sagellm_engine.async_engine import SageEngine
from sagellm_engine.contract import AsyncEngine
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader.progress import LoadProgress


def make_sage_engine(settings: Settings, progress: LoadProgress | None = None) -> AsyncEngine:
    """The sageLLM engine with its configuration; `progress` is told, on its thread, how far the model is loaded.

    Raises:
        SettingsError: settings that do not fit together.
    """
    return SageEngine(engine_config(settings), build=partial(Engine, progress=progress))


def engine_config(settings: Settings) -> EngineConfig:
    """What `settings` say about the engine.

    Raises:
        SettingsError: settings that do not fit together.
    """
    config = EngineConfig(
        model=settings.model,
        name=settings.served_name or "",
        dtype=settings.dtype,
        quantization=settings.quantization,
        device=settings.device,
        kv_cache_dtype=settings.kv_cache_dtype,
        kv_cache_bytes=settings.kv_cache_bytes,
        max_num_seqs=settings.max_num_seqs,
        max_batched_tokens=settings.max_batched_tokens,
        max_model_len=settings.max_model_len,
        enable_prefix_caching=settings.prefix_caching,
        num_threads=settings.threads,
        adapters=settings.adapters,
        speculation=None if settings.speculation == "off" else settings.speculation,
        draft_model=settings.draft_model,
        num_draft_tokens=settings.draft_tokens,
    )
    config.verify()
    return config
