"""The policies by name: ours, and those of installed packages (entry points of group `sagellm.policies`)."""

from collections.abc import Callable
from functools import partial

from sagellm.scheduler.plugins import find_plugin

from .adaptive import Adaptive
from .base import BasePolicy, Key, Outlook, Policy
from .cost_optimized import CostOptimized
from .edf import Edf
from .fair import Fair
from .fifo import Fifo
from .options import PolicyOptions
from .priority import Priority
from .sjf import Sjf
from .slo_aware import SloAware

__all__ = [
    "NAMES",
    "Adaptive",
    "BasePolicy",
    "CostOptimized",
    "Edf",
    "Fair",
    "Fifo",
    "Key",
    "Outlook",
    "Policy",
    "PolicyOptions",
    "Priority",
    "Sjf",
    "SloAware",
    "make_policy",
]

NAMES = ("fifo", "priority", "slo_aware", "cost_optimized", "fair", "adaptive", "edf", "sjf")
"""The built-in policies; the last two are baselines."""


def make_policy(name: str, options: PolicyOptions | None = None) -> Policy:
    """A new policy called `name`; `options` are for the built-in ones.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    built_in: dict[str, Callable[[], Policy]] = {
        "fifo": Fifo,
        "priority": partial(Priority, options),
        "slo_aware": partial(SloAware, options),
        "cost_optimized": partial(CostOptimized, options),
        "fair": partial(Fair, options),
        "adaptive": partial(Adaptive, options),
        "edf": Edf,
        "sjf": Sjf,
    }
    return find_plugin("policy", "sagellm.policies", built_in, name)()
