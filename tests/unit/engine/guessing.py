"""A drafter for tests, which knows the answers and is wrong as often as it is told."""

import random
from collections.abc import Collection, Mapping

from sagellm_engine.sequence import Sequence
from sagellm_engine.speculation import StepLoad


class Guesses:
    """Drafts up to `most` tokens of everyone, each of them right with the chance `right`.

    Without an answer to look up it guesses token 0 to `vocabulary` - 1 at random.
    """

    def __init__(
        self,
        answers: Mapping[str, list[int]] | None = None,
        *,
        right: float = 0.7,
        most: int = 6,
        vocabulary: int = 256,
        seed: int = 1,
    ) -> None:
        self.drafted = self.accepted = 0
        self.loads: list[StepLoad] = []
        self.known: set[Sequence] = set()
        self._answers = {} if answers is None else answers
        self._right = right
        self._most = most
        self._vocabulary = vocabulary
        self._random = random.Random(seed)

    def wanted(self, decodes: Collection[Sequence]) -> dict[Sequence, int]:
        self.known.update(decodes)
        return {s: count for s in decodes if (count := self._random.randint(0, self._most))}

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        return {s: self._guess(s, count) for s, count in room.items() if self._random.random() < 0.9}

    def judged(self, sequence: Sequence, accepted: int) -> None:
        assert 0 <= accepted <= len(sequence.drafts)
        self.drafted += len(sequence.drafts)
        self.accepted += accepted

    def took(self, load: StepLoad, duration_s: float) -> None:
        self.loads.append(load)

    def forget(self, sequence: Sequence) -> None:
        self.known.discard(sequence)

    def _guess(self, sequence: Sequence, count: int) -> list[int]:
        coming = self._answers.get(sequence.id, [])[sequence.num_output :]
        coming += [0] * (count - len(coming))
        return [
            token if self._random.random() < self._right else self._random.randrange(self._vocabulary)
            for token in coming[:count]
        ]
