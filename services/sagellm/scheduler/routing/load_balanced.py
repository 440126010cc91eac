"""load_balanced: the instance with the smallest share of its credits in use."""

from collections.abc import Sequence
from typing import ClassVar

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class LoadBalanced:
    """Least load; among equals, the one that was given work longest ago."""

    name: ClassVar[str] = "load_balanced"

    def choose(self, request: TrackedRequest, candidates: Sequence[Instance]) -> Instance:
        """The least loaded."""
        if len(candidates) == 1:
            return candidates[0]
        return min(candidates, key=_load)


def _load(instance: Instance) -> tuple[float, int]:
    return instance.load, instance.last_turn
