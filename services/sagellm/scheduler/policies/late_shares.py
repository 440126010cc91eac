"""How often requests of each size are late, so that no size bears all the misses of an overload."""

from math import frexp
from typing import Self

MEMORY = 0.99
"""What the share so far still weighs when another request of that size has been decided on."""

TOLERATED = 0.05
TOO_MUCH = 0.15
"""By how much the share of late requests of one size may exceed that of all: up to the first nothing is done, from
the second on everything."""


class LateShares:
    """Shares of late requests by size, that is by work, to within a factor of two."""

    def __init__(self) -> None:
        self._all = 0.0
        self._by_size: dict[int, float] = {}

    def add(self, work_s: float, *, late: bool) -> None:
        """A request of so much work was relegated, or dispatched in time."""
        size = _size(work_s)
        share = self._by_size.get(size, 0.0)
        self._by_size[size] = share + (1 - MEMORY) * (late - share)
        self._all += (1 - MEMORY) * (late - self._all)

    def leniency(self, work_s: float) -> float:
        """1 where requests of that size are late about as often as all, or less; 0 where it is too much."""
        excess = self._by_size.get(_size(work_s), 0.0) - self._all
        return min(1.0, max(0.0, (TOO_MUCH - excess) / (TOO_MUCH - TOLERATED)))

    def copy(self) -> Self:
        """An independent one with the same shares."""
        twin = type(self)()
        twin._all = self._all
        twin._by_size = self._by_size.copy()
        return twin


def _size(work_s: float) -> int:
    return frexp(work_s)[1]
