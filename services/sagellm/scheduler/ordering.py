"""The instance with the smallest key, found in O(log n) while keys change."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

SLACK = 64
"""Outdated entries that are tolerated beside as many as there are valid ones."""


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Ordering(Generic[T]):
    """A heap whose outdated entries stay until they come up; `set` and `first` are O(log n) amortized.

    Of equal keys the one that was set first comes first.
    """

    def __init__(self, key: Callable[[T], tuple[float, ...]]) -> None:
        self._key = key
        self._heap: list[tuple[tuple[float, ...], int, T]] = []
        self._stamps: dict[str, int] = {}
        self._count = 0

    def set(self, item: T) -> None:
        """Enter `item`, or note that its key has changed."""
        self._count += 1
        self._stamps[item.id] = self._count
        heappush(self._heap, (self._key(item), self._count, item))
        if len(self._heap) > 2 * len(self._stamps) + SLACK:
            self._heap = [entry for entry in self._heap if self._stamps.get(entry[2].id) == entry[1]]
            heapify(self._heap)

    def discard(self, item: T) -> None:
        """Take `item` out, if it is there."""
        self._stamps.pop(item.id, None)

    def first(self) -> T:
        """The item with the smallest key; there must be one."""
        heap = self._heap
        while True:
            _key, stamp, item = heap[0]
            if self._stamps.get(item.id) == stamp:
                return item
            heappop(heap)
