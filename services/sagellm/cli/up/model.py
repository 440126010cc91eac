"""The model of `sagellm up`, fetched before anything starts: with a bar, once, and with a plain error."""

from sagellm.settings import Settings


def fetch_model(settings: Settings) -> None:
    """Make sure that the model's files are on this machine, where the engine is one that reads them.

    Raises:
        ModelLoadError: there is no such model, or it cannot be fetched.
    """
    if settings.engine != "sagellm":
        return
    from sagellm_engine.loader import ALIASES, pull, resolve

    if settings.model in ALIASES:
        pull(settings.model, progress=True)
    else:
        resolve(settings.model)
