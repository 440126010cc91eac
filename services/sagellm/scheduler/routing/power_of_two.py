"""power_of_two: of two instances picked by chance, the less loaded.

M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001: the longest queue among n servers
grows with log log n instead of log n, and old news of the loads does no harm.
"""

from random import Random
from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest

from .load_balanced import by_load


class PowerOfTwo:
    """Two by chance, the better of them. The sequence is the same in every run."""

    name: ClassVar[str] = "power_of_two"

    def __init__(self) -> None:
        self._random = Random(0)

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The less loaded of two different candidates."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        first = int(self._random.random() * count)
        second = int(self._random.random() * (count - 1))
        return min(candidates[first], candidates[second + (second >= first)], key=by_load)
