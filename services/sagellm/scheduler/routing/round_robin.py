"""round_robin: every instance in turn."""

from collections.abc import Sequence
from typing import ClassVar

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class RoundRobin:
    """The candidate that was given work longest ago; instances that come, go or are full upset no turns."""

    name: ClassVar[str] = "round_robin"

    def choose(self, request: TrackedRequest, candidates: Sequence[Instance]) -> Instance:
        """The next in turn."""
        return min(candidates, key=_turn)


def _turn(instance: Instance) -> int:
    return instance.last_turn
