"""The routing strategies by name: ours, and those of installed packages (entry points `sagellm.routing`)."""

from sagellm.scheduler.plugins import find_plugin

from .affinity import Affinity
from .base import Router
from .load_balanced import LoadBalanced, by_load
from .locality import Locality
from .power_of_two import PowerOfTwo
from .preference import preferred
from .prefix_aware import PrefixAware
from .random_choice import RandomChoice
from .round_robin import RoundRobin
from .topology_aware import TopologyAware

__all__ = [
    "Affinity",
    "LoadBalanced",
    "Locality",
    "PowerOfTwo",
    "PrefixAware",
    "RandomChoice",
    "RoundRobin",
    "Router",
    "TopologyAware",
    "by_load",
    "make_router",
    "preferred",
]

BUILT_IN: tuple[type[Router], ...] = (
    LoadBalanced,
    RoundRobin,
    RandomChoice,
    PowerOfTwo,
    Affinity,
    Locality,
    PrefixAware,
    TopologyAware,
)


def make_router(name: str) -> Router:
    """A new routing strategy called `name`.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    return find_plugin("routing strategy", "sagellm.routing", {kind.name: kind for kind in BUILT_IN}, name)()
