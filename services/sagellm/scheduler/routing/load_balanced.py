"""load_balanced: the instance with the smallest share of its credits in use."""

from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class LoadBalanced:
    """Least load; among equals, the one that was given work longest ago."""

    name: ClassVar[str] = "load_balanced"

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The least loaded."""
        return candidates.least(by_load)


def by_load(instance: Instance) -> tuple[float, ...]:
    """Key of the least loaded instance, and among equals of the one whose turn it is."""
    return instance.load, instance.last_turn
