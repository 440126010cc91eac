"""round_robin: every instance in turn."""

from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class RoundRobin:
    """The candidate that was given work longest ago; instances that come, go or are full upset no turns."""

    name: ClassVar[str] = "round_robin"

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The next in turn."""
        return candidates.least(by_turn)


def by_turn(instance: Instance) -> tuple[float, ...]:
    """Key of the instance that was given work longest ago."""
    return (instance.last_turn,)
