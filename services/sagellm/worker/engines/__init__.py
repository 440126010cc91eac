"""The engines a worker can run, by the setting `engine`."""

from typing import TYPE_CHECKING

from sagellm.settings import Settings
from sagellm_engine.contract import AsyncEngine
from sagellm_schemas import SettingsError

if TYPE_CHECKING:
    from sagellm_engine.loader.progress import LoadProgress


def make_engine(settings: Settings, progress: "LoadProgress | None" = None) -> AsyncEngine:
    """The engine that `settings` ask for, not started yet; ours tells `progress` how far its model is loaded.

    Only the engine asked for is imported: a mock or a vLLM worker needs no torch.

    Raises:
        SettingsError: settings that do not fit together.
    """
    if settings.engine == "mock":
        from .mock import MockEngine

        return MockEngine(settings)
    if settings.engine == "vllm":
        from .vllm import VllmEngine

        if settings.adapters:
            raise SettingsError(
                "a vLLM server tells its adapters itself: give them to it with its --lora-modules",
                param="adapters",
            )
        return VllmEngine(settings)
    from .own import make_sage_engine

    return make_sage_engine(settings, progress)
