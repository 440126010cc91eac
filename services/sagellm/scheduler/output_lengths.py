"""How long answers become: quantiles of what a user, model and size of prompt had before."""

from collections import OrderedDict
from math import ceil, log

GROWTH = 1.25
"""Ratio of neighbouring bins: a quantile is right within a quarter."""

BINS = 56
"""The last bin begins at about 200,000 tokens."""

ENOUGH = 8
MEMORY = 256.0
"""A history that counts more than this many answers is halved, so that habits may change."""

STALE = 33 / 32
MAX_HISTORIES = 20_000
UNKNOWN_TOKENS = 256
"""Guess for an answer of a model that has not answered yet."""

Key = tuple[str, str, int]


class History:
    """A histogram of lengths with geometric bins, which forgets.

    Its one quantile is found anew when it has grown by a thirty-second: it is asked for with every request.
    """

    __slots__ = ("_bins", "_found", "_found_at", "_share", "count")

    def __init__(self, share: float) -> None:
        self._share = share
        self._bins = [0.0] * BINS
        self._found = 0
        self._found_at = 0.0
        self.count = 0.0

    def add(self, tokens: int) -> None:
        """One more answer of that length."""
        if self.count >= MEMORY:
            self._bins = [held / 2 for held in self._bins]
            self.count /= 2
            self._found_at = 0.0
        self._bins[min(BINS - 1, ceil(log(max(1, tokens), GROWTH)))] += 1
        self.count += 1

    @property
    def quantile(self) -> int:
        """The upper edge of the bin that holds the quantile; 0 without answers."""
        if self.count > self._found_at * STALE:
            self._found, self._found_at = self._find(), self.count
        return self._found

    def _find(self) -> int:
        wanted, seen = self._share * self.count, 0.0
        for place, held in enumerate(self._bins):
            seen += held
            if held and seen >= wanted:
                return round(GROWTH**place)
        return 0


class OutputLengths:
    """Histories by user, model and size of prompt; where one is too short, by model and size, then by model.

    At most `max_histories` are kept, those used last. `share` is the quantile that is predicted.
    """

    def __init__(self, share: float = 0.8, max_histories: int = MAX_HISTORIES) -> None:
        self._share = share
        self._max_histories = max_histories
        self._histories: OrderedDict[Key, History] = OrderedDict()

    def __len__(self) -> int:
        return len(self._histories)

    def add(self, user: str, model: str, prompt_tokens: int, output_tokens: int) -> None:
        """Learn from an answer that ended by itself."""
        size = prompt_tokens.bit_length()
        keys = [("", model, size), ("", model, -1)]
        if user:
            keys.append((user, model, size))
        for key in keys:
            history = self._histories.get(key)
            if history is None:
                history = self._histories[key] = History(self._share)
                if len(self._histories) > self._max_histories:
                    self._histories.popitem(last=False)
            self._histories.move_to_end(key)
            history.add(output_tokens)

    def predict(self, user: str, model: str, prompt_tokens: int) -> int:
        """A length that the answer will probably not exceed."""
        size = prompt_tokens.bit_length()
        for key in ((user, model, size), ("", model, size), ("", model, -1)):
            history = self._histories.get(key)
            if history is not None and history.count >= ENOUGH:
                return history.quantile
        return UNKNOWN_TOKENS
