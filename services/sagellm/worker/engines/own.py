"""Our own engine, made from the settings."""

from sagellm.settings import Settings
from sagellm_engine.contract import AsyncEngine


def make_sage_engine(settings: Settings) -> AsyncEngine:
    """The sageLLM engine; importing it imports torch."""
    from sagellm_engine.async_engine import SageEngine

    return SageEngine(settings)
