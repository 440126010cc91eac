"""The waiting requests of one model, in the order of the policy."""

from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace

from sagellm.scheduler.policies.base import Key, Policy
from sagellm.scheduler.requests import TrackedRequest

Entry = tuple[Key, int, TrackedRequest]


@dataclass(slots=True, eq=False)
class _Group:
    """Requests in fixed order. `seat` is the number of its one valid entry among the groups' ranks."""

    name: str
    entries: list[Entry] = field(default_factory=list)
    seat: int = 0


class RequestQueue:
    """Two levels of heaps, groups and their requests: `push`, `pop` and `remove` are O(log n) amortized.

    Removal is lazy: the entry stays until it comes up. So are changes of rank: a group's rank is checked when it
    comes up, which is right as long as ranks only grow (see `policies.base`).
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._groups: dict[str, _Group] = {}
        self._ranks: list[tuple[Key, int, _Group]] = []
        self._removed: set[int] = set()
        self._seats = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, request: TrackedRequest, now_s: float) -> None:
        """Let `request` wait."""
        if request.sequence in self._removed:
            self._sweep()
        self._place(request, now_s)
        self._length += 1

    def pop(self, now_s: float) -> TrackedRequest | None:
        """Take the first request; None if there is none."""
        while self._ranks:
            rank, seat, group = self._ranks[0]
            if seat != group.seat:
                heappop(self._ranks)
                continue
            entries = group.entries
            while entries and entries[0][1] in self._removed:
                self._removed.discard(heappop(entries)[1])
            if not entries:
                heappop(self._ranks)
                del self._groups[group.name]
                continue
            first = entries[0][2]
            if self._policy.group(first, now_s) != group.name:
                heappop(entries)
                self._seat(group, now_s)
                self._place(first, now_s)
                continue
            if self._policy.rank(group.name, first, now_s) > rank:
                self._seat(group, now_s)
                continue
            heappop(entries)
            self._length -= 1
            self._seat(group, now_s)
            return first
        return None

    def remove(self, request: TrackedRequest) -> None:
        """Take out a request that waits here."""
        self._removed.add(request.sequence)
        self._length -= 1

    def _place(self, request: TrackedRequest, now_s: float) -> None:
        name = self._policy.group(request, now_s)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        entry = (self._policy.key(request), request.sequence, request)
        heappush(group.entries, entry)
        if group.entries[0] is entry:
            self._seat(group, now_s)

    def _seat(self, group: _Group, now_s: float) -> None:
        """Enter `group` among the ranks by its present first request; an older entry of it counts no more."""
        top = bool(self._ranks) and self._ranks[0][2] is group
        self._seats += 1
        group.seat = self._seats
        if not group.entries:
            del self._groups[group.name]
            if top:
                heappop(self._ranks)
            return
        seat = (self._policy.rank(group.name, group.entries[0][2], now_s), group.seat, group)
        if top:
            heapreplace(self._ranks, seat)
        else:
            heappush(self._ranks, seat)

    def _sweep(self) -> None:
        """Drop removed entries now: a request that was removed comes back, and must not be taken for its ghost."""
        for group in self._groups.values():
            group.entries[:] = [entry for entry in group.entries if entry[1] not in self._removed]
            group.entries.sort()
        self._removed.clear()
