"""The waiting requests of one model, in the order of the policy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from sagellm.scheduler.policies.base import Key, Policy
from sagellm.scheduler.requests import TrackedRequest

Entry = tuple[Key, int, int, TrackedRequest]
"""Key, place in the durable queue, ticket, request. An entry counts while its ticket is the request's latest."""

LEAST_GHOSTS = 1024

MOST_MOVES = 32
"""Between groups, for one pop: if thousands change theirs at once, it takes some pops, and none takes long."""


@dataclass(slots=True, eq=False)
class _Group:
    """Requests in fixed order. `seat` is the number of its one valid entry among the groups' ranks."""

    name: str
    entries: list[Entry] = field(default_factory=list)
    seat: int = 0


class RequestQueue:
    """Two levels of heaps, groups and their requests: `push`, `pop` and `remove` are O(log n) amortized.

    Removal is lazy: the entry stays until it comes up, or until such ghosts are the majority. So are changes of
    rank: a group's rank is checked when it comes up, which is right as long as ranks only grow (`policies.base`).
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._generation = policy.generation
        self._groups: dict[str, _Group] = {}
        self._ranks: list[tuple[Key, int, _Group]] = []
        self._tickets: dict[int, int] = {}
        self._numbers = count()
        self._seats = count(1)
        self._ghosts = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, request: TrackedRequest, now_s: float) -> None:
        """Let `request` wait; it does not wait here yet."""
        self._policy.entered(request, now_s)
        if self._policy.generation != self._generation:
            self.use(self._policy, now_s)
        self._place(request, now_s)

    def pop(self, now_s: float) -> TrackedRequest | None:
        """Take the first request; None if there is none."""
        first = self.first(now_s)
        if first is not None:
            self.take(first, now_s)
        return first

    def take(self, first: TrackedRequest, now_s: float) -> None:
        """Take what `first` has just returned; asked again, it might return another one."""
        group = self._ranks[0][2]
        assert group.entries[0][3] is first, "something has happened since"
        del self._tickets[heappop(group.entries)[1]]
        self._seat(group, now_s)
        self._policy.left(first, now_s)

    def first(self, now_s: float) -> TrackedRequest | None:
        """The request that `pop` would take; it goes on waiting."""
        if self._policy.generation != self._generation:
            self.use(self._policy, now_s)
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
            if moves < MOST_MOVES and self._policy.group(first, now_s) != group.name:
                moves += 1
                heappop(entries)
                self._seat(group, now_s)
                self._place(first, now_s)
                continue
            if self._policy.rank(group.name, first, now_s) > rank:
                self._seat(group, now_s)
                continue
            return first
        return None

    @property
    def first_group(self) -> str:
        """The policy's group of what `first` has just returned."""
        return self._ranks[0][2].name

    def remove(self, request: TrackedRequest, now_s: float) -> None:
        """Take out a request that waits here."""
        del self._tickets[request.sequence]
        self._policy.left(request, now_s)
        self._ghosts += 1
        if self._ghosts > LEAST_GHOSTS + len(self._tickets):
            self._lay_out(self.waiting(), now_s)

    def waiting(self) -> list[TrackedRequest]:
        """Everything that waits, in no order."""
        return [
            entry[3]
            for group in self._groups.values()
            for entry in group.entries
            if self._tickets.get(entry[1]) == entry[2]
        ]

    def use(self, policy: Policy, now_s: float) -> None:
        """Put everything into the order of `policy`, O(n log n): another one, or the same that changed its mind.

        A policy that is new here is told of everything that waits.
        """
        waiting = self.waiting()
        if policy is not self._policy:
            for request in waiting:
                self._policy.left(request, now_s)
            self._policy = policy
            for request in waiting:
                policy.entered(request, now_s)
        self._generation = policy.generation
        self._lay_out(waiting, now_s)

    def preview(self, now_s: float) -> Iterator[TrackedRequest]:
        """The requests in the order in which they would be served if nothing else came, each found in O(log n).

        The queue may change while this is read: it goes by how things stood at its first step.
        """
        if self._policy.generation != self._generation:
            self.use(self._policy, now_s)
        policy = self._policy.preview()
        copy = RequestQueue(policy)
        for group in self._groups.values():
            copy._groups[group.name] = _Group(group.name, group.entries.copy(), group.seat)
        copy._ranks = [
            (rank, seat, copy._groups[group.name]) for rank, seat, group in self._ranks if seat == group.seat
        ]
        heapify(copy._ranks)
        copy._tickets = self._tickets.copy()
        copy._numbers = count(next(self._numbers))
        copy._seats = count(next(self._seats))
        while (request := copy.pop(now_s)) is not None:
            policy.charge(request, input_tokens=request.prompt_tokens)
            yield request

    def _place(self, request: TrackedRequest, now_s: float) -> None:
        name = self._policy.group(request, now_s)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name)
        ticket = self._tickets[request.sequence] = next(self._numbers)
        entry = (self._policy.key(request), request.sequence, ticket, request)
        heappush(group.entries, entry)
        if group.entries[0] is entry:
            self._seat(group, now_s)

    def _seat(self, group: _Group, now_s: float) -> None:
        """Enter `group` among the ranks by its present first request; an older entry of it counts no more."""
        top = bool(self._ranks) and self._ranks[0][2] is group
        group.seat = next(self._seats)
        self._drop_ghosts(group.entries)
        if not group.entries:
            del self._groups[group.name]
            if top:
                heappop(self._ranks)
            return
        seat = (self._policy.rank(group.name, group.entries[0][3], now_s), group.seat, group)
        if top:
            heapreplace(self._ranks, seat)
        else:
            heappush(self._ranks, seat)

    def _drop_ghosts(self, entries: list[Entry]) -> None:
        while entries and self._tickets.get(entries[0][1]) != entries[0][2]:
            heappop(entries)
            self._ghosts -= 1

    def _lay_out(self, requests: list[TrackedRequest], now_s: float) -> None:
        self._groups.clear()
        self._ranks.clear()
        self._tickets.clear()
        self._ghosts = 0
        for request in requests:
            self._place(request, now_s)
