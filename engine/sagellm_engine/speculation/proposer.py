"""What guesses tokens: `Proposer`."""

from dataclasses import dataclass
from typing import Protocol

from sagellm_engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Outlook:
    """How many tokens could be proposed now.

    Proposals of one `kind` are about equally good. `first_chance` is that each further token is right, as far as
    one can tell before there were any of the kind.
    """

    tokens: int
    kind: int = 0
    first_chance: float = 0.5


class Proposer(Protocol):
    """Guesses the next tokens of sequences. It must be deterministic: see `acceptance`."""

    def look(self, sequence: Sequence, most: int) -> Outlook | None:
        """What it could propose, up to `most` tokens; cheap, since nothing may come of it."""
        ...

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """Up to so many tokens for each sequence, after a `look` at it.

        A sequence may be left out, for one step, while something is made ready for it.
        """
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence is about to end: free what is kept for it."""
        ...
