"""The policies by name: ours, and those of installed packages (entry points of group `sagellm.policies`)."""

from sagellm.scheduler.plugins import find_plugin

from .base import FixedOrder, Key, Policy
from .fifo import Fifo
from .priority import Priority

__all__ = ["Fifo", "FixedOrder", "Key", "Policy", "Priority", "make_policy"]

BUILT_IN: tuple[type[Policy], ...] = (Fifo, Priority)


def make_policy(name: str) -> Policy:
    """A new policy called `name`.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    return find_plugin("policy", "sagellm.policies", {kind.name: kind for kind in BUILT_IN}, name)()
