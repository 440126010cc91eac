"""One rate: so much a minute for each name, as token buckets that hold a minute's worth and refill evenly."""

from heapq import nlargest
from operator import itemgetter

MINUTE_S = 60.0
MOST_NAMES = 20_000
INSTANT_S = 1e-6
"""Shorter waits are rounding errors."""


class Rate:
    """The buckets of all names. Of each only one number is kept: when it will be full again.

    That number is all there is to a bucket (the generic cell rate algorithm of ATM networks), and a full bucket
    needs none: whoever has been silent for a minute is forgotten. If more than `most_names` buckets are not full,
    those that are nearest to it count as full.
    """

    def __init__(self, per_minute: float, most_names: int = MOST_NAMES) -> None:
        self._amount_s = MINUTE_S / per_minute
        self._most_names = most_names
        self._full_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_s)

    def wait_s(self, name: str, amount: float, now_s: float, factor: float = 1.0) -> float:
        """How long until `amount` fits into what `name` has left, at `factor` times the rate; 0: it does.

        More than a minute's worth fits when the bucket is full, and leaves a debt: the mean rate holds.
        """
        lacking_s = max(0.0, self._full_s.get(name, now_s) - now_s)
        wait_s = lacking_s + min(MINUTE_S, amount * self._amount_s / factor) - MINUTE_S
        return wait_s if wait_s > INSTANT_S else 0.0

    def take(self, name: str, amount: float, now_s: float, factor: float = 1.0) -> None:
        """Take `amount` out, whether it fits or not."""
        full_s = max(now_s, self._full_s.get(name, now_s))
        self._full_s[name] = full_s + amount * self._amount_s / factor
        if len(self._full_s) > self._most_names:
            self._forget(now_s)

    def give_back(self, name: str, amount: float, now_s: float, factor: float = 1.0) -> None:
        """Put back what was taken and not used; a bucket never holds more than a minute's worth."""
        full_s = self._full_s.get(name)
        if full_s is None:
            return
        full_s -= amount * self._amount_s / factor
        if full_s > now_s:
            self._full_s[name] = full_s
        else:
            del self._full_s[name]

    def _forget(self, now_s: float) -> None:
        kept = [entry for entry in self._full_s.items() if entry[1] > now_s]
        if len(kept) > self._most_names // 2:
            kept = nlargest(self._most_names // 2, kept, key=itemgetter(1))
        self._full_s = dict(kept)
