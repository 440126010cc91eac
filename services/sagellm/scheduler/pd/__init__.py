"""The PD policies by name: ours, and those of installed packages (entry points of group `sagellm.pd`)."""

from sagellm.scheduler.plugins import find_plugin

from .adaptive import Adaptive
from .base import PdPolicy, Prospect
from .router import Expectations, PdRouter, by_tokens
from .threshold import Threshold

__all__ = [
    "Adaptive",
    "Expectations",
    "PdPolicy",
    "PdRouter",
    "Prospect",
    "Threshold",
    "by_tokens",
    "make_pd_policy",
]

BUILT_IN: tuple[type[PdPolicy], ...] = (Threshold, Adaptive)


def make_pd_policy(name: str) -> PdPolicy:
    """A new PD policy called `name`.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    return find_plugin("PD policy", "sagellm.pd", {kind.name: kind for kind in BUILT_IN}, name)()
