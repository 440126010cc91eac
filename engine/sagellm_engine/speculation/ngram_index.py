"""Where in a sequence the same tokens have occurred: an index that grows with it."""

from dataclasses import dataclass

MOST_CANDIDATES = 32
"""So many occurrences of the last two tokens are compared, latest first: finding nothing must stay cheap."""


@dataclass(frozen=True, slots=True)
class Match:
    """The last `tokens` tokens occur earlier, too, and what followed them there begins at `next_at`."""

    tokens: int
    next_at: int


class NgramIndex:
    """Of each token and each pair of tokens the latest place that something follows; pairs are chained.

    Adding a token takes a few lookups in a dict, and so does finding a match: nothing goes through the whole
    sequence. Matches are followed back up to `longest` tokens.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._size = 0
        self._singles: dict[int, int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._earlier: list[int] = []
        """For each place where the same pair ended before; -1 if nowhere."""

    def extend(self, token_ids: list[int]) -> None:
        """Take in the tokens that are new, but for the last, which nothing follows yet."""
        singles, pairs, earlier = self._singles, self._pairs, self._earlier
        previous = token_ids[self._size - 1] if self._size else -1
        for place in range(self._size, len(token_ids) - 1):
            token_id = token_ids[place]
            pair = (previous, token_id)
            singles[token_id] = place
            earlier.append(pairs.get(pair, -1))
            pairs[pair] = place
            previous = token_id
        self._size = max(self._size, len(token_ids) - 1)

    def match(self, token_ids: list[int]) -> Match | None:
        """The longest match of the last tokens, and of equally long ones the latest."""
        last = token_ids[-1]
        place = self._pairs.get((token_ids[-2], last), -1) if len(token_ids) > 1 else -1
        if place < 0:
            place = self._singles.get(last, -1)
            return Match(1, place + 1) if place >= 0 else None
        best, best_place = 0, place
        for _ in range(MOST_CANDIDATES):
            length = self._length(token_ids, place)
            if length > best:
                best, best_place = length, place
            place = self._earlier[place]
            if best == self._longest or place < 0:
                break
        return Match(best, best_place + 1)

    def _length(self, token_ids: list[int], place: int) -> int:
        """How many tokens up to `place` equal the last ones; two do."""
        length, most = 2, min(self._longest, place + 1)
        while length < most and token_ids[place - length] == token_ids[-1 - length]:
            length += 1
        return length
