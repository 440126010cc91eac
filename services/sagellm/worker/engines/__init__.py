"""The engines a worker can run, by the setting `engine`."""

from sagellm.settings import Settings
from sagellm_engine.contract import AsyncEngine


def make_engine(settings: Settings) -> AsyncEngine:
    """The engine that `settings` ask for, not started yet.

    Only the engine asked for is imported: a mock or a vLLM worker needs no torch.
    """
    if settings.engine == "mock":
        from .mock import MockEngine

        return MockEngine(settings)
    if settings.engine == "vllm":
        from .vllm import VllmEngine

        return VllmEngine(settings)
    from .own import make_sage_engine

    return make_sage_engine(settings)
