"""Waiting requests in the order of one policy: two levels of heaps, groups and their requests."""

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from sagellm.scheduler.policies.base import Key, Policy
from sagellm.scheduler.requests import TrackedRequest

Entry = tuple[Key, int, int, TrackedRequest]
"""Key, place in the durable queue, number, request. It counts while it is the latest entry of its request."""

LEAST_GHOSTS = 1024

MOST_MOVES = 32
"""Between groups, for one `first`: if thousands change theirs at once, it takes some, and none takes long."""


class _Group:
    """Requests in fixed order. `seat` is the number of its one valid entry among the groups' ranks."""

    __slots__ = ("entries", "name", "seat")

    def __init__(self, name: str, entries: list[Entry], seat: int = 0) -> None:
        self.name = name
        self.entries = entries
        self.seat = seat


class Order:
    """`place`, `first`, `take_first` and `remove` are O(log n) amortized. Nothing is told to the policy here.

    Removal is lazy: the entry stays until it comes up, or until such ghosts are the majority. So are changes of
    rank: a group's rank is checked when it comes up, which is right as long as ranks only grow (`policies.base`).
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._valid: dict[int, Entry] = {}
        self._groups: dict[str, _Group] = {}
        self._ranks: list[tuple[Key, int, _Group]] = []
        self._numbers = count(1)
        self._ghosts = 0

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, request: TrackedRequest) -> bool:
        return request.sequence in self._valid

    def requests(self) -> list[TrackedRequest]:
        """Everything that waits, in no particular order."""
        return [entry[3] for entry in self._valid.values()]

    def place(self, request: TrackedRequest, now_s: float) -> None:
        """Let `request` wait at its place; it does not wait here yet."""
        name = self.policy.group(request, now_s)
        entry = (self.policy.key(request), request.sequence, next(self._numbers), request)
        self._valid[request.sequence] = entry
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, [])
        heappush(group.entries, entry)
        if group.entries[0] is entry:
            self._seat(group, now_s)

    def first(self, now_s: float) -> TrackedRequest | None:
        """The request whose turn it is; None if there is none."""
        moves = 0
        while self._ranks:
            rank, seat, group = self._ranks[0]
            if seat != group.seat:
                heappop(self._ranks)
                continue
            entries = group.entries
            self._drop_ghosts(entries)
            if not entries:
                heappop(self._ranks)
                del self._groups[group.name]
                continue
            first = entries[0][3]
            if moves < MOST_MOVES and self.policy.group(first, now_s) != group.name:
                moves += 1
                heappop(entries)
                self._seat(group, now_s)
                self.place(first, now_s)
                continue
            if self.policy.rank(group.name, first, now_s) > rank:
                self._seat(group, now_s)
                continue
            return first
        return None

    @property
    def first_group(self) -> str:
        """The group of what `first` has just returned."""
        return self._ranks[0][2].name

    def take_first(self, now_s: float) -> None:
        """Take out what `first` has just returned."""
        group = self._ranks[0][2]
        del self._valid[heappop(group.entries)[1]]
        self._seat(group, now_s)

    def remove(self, request: TrackedRequest) -> None:
        """Take out a request that waits here."""
        del self._valid[request.sequence]
        self._ghosts += 1
        if self._ghosts > LEAST_GHOSTS + len(self._valid):
            self._drop_all_ghosts()

    def copy(self, policy: Policy) -> "Order":
        """The same under `policy`, which thinks as this one's."""
        twin = Order(policy)
        twin._valid = self._valid.copy()
        twin._groups = {
            name: _Group(name, group.entries.copy(), group.seat) for name, group in self._groups.items()
        }
        twin._ranks = [
            (rank, seat, twin._groups[group.name]) for rank, seat, group in self._ranks if seat == group.seat
        ]
        heapify(twin._ranks)
        twin._numbers = count(next(self._numbers))
        return twin

    def _seat(self, group: _Group, now_s: float) -> None:
        """Enter `group` among the ranks by its present first request; an older entry of it counts no more."""
        top = bool(self._ranks) and self._ranks[0][2] is group
        group.seat = next(self._numbers)
        self._drop_ghosts(group.entries)
        if not group.entries:
            del self._groups[group.name]
            if top:
                heappop(self._ranks)
            return
        seat = (self.policy.rank(group.name, group.entries[0][3], now_s), group.seat, group)
        if top:
            heapreplace(self._ranks, seat)
        else:
            heappush(self._ranks, seat)

    def _drop_ghosts(self, entries: list[Entry]) -> None:
        valid = self._valid
        while entries and valid.get(entries[0][1]) is not entries[0]:
            heappop(entries)
            self._ghosts -= 1

    def _drop_all_ghosts(self) -> None:
        """Asks no policy: the order among those that are left is as it was."""
        valid = self._valid
        for group in self._groups.values():
            group.entries = [entry for entry in group.entries if valid.get(entry[1]) is entry]
            heapify(group.entries)
        self._ghosts = 0
