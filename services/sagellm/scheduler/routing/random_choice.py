"""random: any instance, all with the same chance."""

from random import Random
from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class RandomChoice:
    """Uniform among the candidates. The sequence is the same in every run: chance need not be a secret here."""

    name: ClassVar[str] = "random"

    def __init__(self) -> None:
        self._random = Random(0)

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """Any."""
        return candidates[int(self._random.random() * len(candidates))]
