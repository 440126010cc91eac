"""Prompt lookup (Saxena, 2023): what followed the latest tokens when they last occurred, in prompt or answer.

For texts that repeat what they were given: edited code, summaries with quotes, records in one format.
"""

from sagellm_engine.sequence import Sequence

from .ngram_index import NgramIndex
from .proposer import Outlook

LONGEST_TOKENS = 8
"""A match is not followed back any further."""

FIRST_CHANCES = (0.0, 0.15, 0.45, 0.7, 0.7, 0.8, 0.8, 0.8, 0.9)
"""By how many tokens match: chat answers and edits of SmolLM2, roughly."""


class NgramProposer:
    """Keeps an index of each sequence. The kind of a proposal is how many tokens match before it."""

    def __init__(self, shortest: int = 1, longest: int = LONGEST_TOKENS) -> None:
        """Matches of fewer than `shortest` tokens count as none."""
        self._shortest = shortest
        self._longest = longest
        self._indexes: dict[Sequence, NgramIndex] = {}
        self._found: dict[Sequence, int] = {}

    def look(self, sequence: Sequence, most: int) -> Outlook | None:
        """The longest match; see `Proposer`."""
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = NgramIndex(self._longest)
        index.extend(sequence.token_ids)
        match = index.match(sequence.token_ids)
        if match is None or match.tokens < self._shortest:
            return None
        self._found[sequence] = match.next_at
        return Outlook(most, match.tokens, FIRST_CHANCES[min(match.tokens, len(FIRST_CHANCES) - 1)])

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """What followed the matches; see `Proposer`."""
        return {s: continuation(s.token_ids, self._found[s], most) for s, most in room.items()}

    def forget(self, sequence: Sequence) -> None:
        """See `Proposer`."""
        self._indexes.pop(sequence, None)
        self._found.pop(sequence, None)


def continuation(token_ids: list[int], start: int, most: int) -> list[int]:
    """`most` tokens from `start` on; beyond the end, the text is taken to repeat itself from `start`."""
    followed = token_ids[start : start + most]
    if len(followed) < most:
        followed = (followed * -(-most // len(followed)))[:most]
    return followed
