"""The routing strategies by name: ours, and those of installed packages (entry points `sagellm.routing`)."""

from sagellm.scheduler.plugins import find_plugin

from .base import Router
from .load_balanced import LoadBalanced
from .round_robin import RoundRobin

__all__ = ["LoadBalanced", "RoundRobin", "Router", "make_router"]

BUILT_IN: tuple[type[Router], ...] = (LoadBalanced, RoundRobin)


def make_router(name: str) -> Router:
    """A new routing strategy called `name`.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    return find_plugin("routing strategy", "sagellm.routing", {kind.name: kind for kind in BUILT_IN}, name)()
