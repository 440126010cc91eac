"""What the scheduler needs of speculation."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from sagellm_engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step computes that has nothing but decodes: so many of them, which read the KV of `kv_tokens`, and
    `drafts` tokens that are guessed."""

    decodes: int
    kv_tokens: int
    drafts: int


class Drafter(Protocol):
    """Proposes tokens that may follow those of decoding sequences, as far as they are worth checking."""

    def wanted(self, decodes: Collection[Sequence]) -> dict[Sequence, int]:
        """How many tokens at most should be drafted of each of the sequences that decode in this step."""
        ...

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """Tokens that may follow, at most as many as there is room for; a sequence may be left out.

        The blocks of each sequence hold its tokens and the room.
        """
        ...

    def judged(self, sequence: Sequence, accepted: int) -> None:
        """The first `accepted` of the sequence's `drafts` were right."""
        ...

    def took(self, load: StepLoad, duration_s: float) -> None:
        """Such a step took so long, from `wanted` on to its tokens."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence is about to end; it still has its blocks."""
        ...
