"""The instances that can take a request now, and the questions that routing strategies ask about them."""

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from sagellm.scheduler.ordering import Ordering
from sagellm.scheduler.prefixes import PrefixIndex

if TYPE_CHECKING:
    from sagellm.scheduler.instances import Instance


class Candidates(Sequence["Instance"]):
    """A live sequence, in no particular order: whoever becomes full, drains or dies leaves it at once.

    Members are all instances that may become candidates; candidates are those of them with a free credit. Nothing
    here is rebuilt per decision: a change of one instance costs O(log n) at most, and so does each question.
    """

    def __init__(self, instances: Iterable["Instance"] = (), prefixes: PrefixIndex | None = None) -> None:
        self._free: list[Instance] = []
        self._position: dict[str, int] = {}
        self._members: dict[str, tuple[Instance, int, int, int, int]] = {}
        self._orderings: dict[Callable[[Instance], tuple[float, ...]], Ordering[Instance]] = {}
        self._parts: dict[Callable[[Instance], Hashable], dict[Hashable, Candidates]] = {}
        self._assigned = self._capacity = self._unread = 0
        self.ready = 0
        """How many members are ready, full ones included."""
        self.prefixes = prefixes
        """What the model's instances hold in their prefix caches."""
        self.seeds = array("Q")
        """`Instance.seed` of every candidate, position by position."""
        for instance in instances:
            self.join(instance)

    @overload
    def __getitem__(self, index: int) -> "Instance": ...
    @overload
    def __getitem__(self, index: slice) -> list["Instance"]: ...
    def __getitem__(self, index: int | slice) -> "Instance | list[Instance]":
        return self._free[index]

    def __len__(self) -> int:
        return len(self._free)

    def __iter__(self) -> Iterator["Instance"]:
        return iter(self._free)

    def __contains__(self, instance: object) -> bool:
        position = self._position.get(getattr(instance, "id", ""))
        return position is not None and self._free[position] is instance

    @property
    def members(self) -> int:
        """How many instances could be candidates, full ones included."""
        return len(self._members)

    @property
    def capacity(self) -> int:
        """The credits of all ready members."""
        return self._capacity

    @property
    def load(self) -> float:
        """Share of the credits of all ready members that are in use."""
        return self._assigned / max(1, self._capacity)

    @property
    def unread_tokens(self) -> float:
        """Prompt tokens that a ready member has yet to compute, on average."""
        return self._unread / max(1, self.ready)

    def get(self, instance_id: str) -> "Instance | None":
        """The candidate of that id, if it is one. O(1)."""
        position = self._position.get(instance_id)
        return None if position is None else self._free[position]

    def least(self, key: Callable[["Instance"], tuple[float, ...]]) -> "Instance":
        """The candidate with the smallest `key`. O(log n) after the first call; give the same function each time.

        `key` may depend on what `Instance` tells of its changes: its assignments, turn, state and info.
        """
        ordering = self._orderings.get(key)
        if ordering is None:
            ordering = self._orderings[key] = Ordering(key)
            for instance in self._free:
                ordering.set(instance)
        return ordering.first()

    def part(self, attribute: Callable[["Instance"], Hashable], value: Hashable) -> "Candidates":
        """The candidates whose `attribute` is `value`, as live as these. O(1) after the first call."""
        parts = self._parts.get(attribute)
        if parts is None:
            parts = self._parts[attribute] = {}
            for instance, *_ in self._members.values():
                parts.setdefault(attribute(instance), Candidates((), self.prefixes)).join(instance)
        found = parts.get(value)
        return Candidates((), self.prefixes) if found is None else found

    def only(self, wanted: Callable[["Instance"], bool]) -> "Candidates":
        """Those that are `wanted`, as of now: O(n), and nothing keeps the result up to date."""
        found = Candidates((), self.prefixes)
        for instance in self._free:
            if wanted(instance):
                found._members[instance.id] = (instance, 0, 0, 0, 0)
                found.update(instance)
        return found

    def one(self, instance: "Instance") -> "Candidates":
        """Only `instance`, which is a candidate, as of now: nothing keeps the result up to date. O(1)."""
        found = Candidates((), self.prefixes)
        found._members[instance.id] = (instance, 0, 0, 0, 0)
        found.update(instance)
        return found

    def join(self, instance: "Instance") -> None:
        """Make `instance` a member."""
        self._members[instance.id] = (instance, 0, 0, 0, 0)
        for attribute, parts in self._parts.items():
            parts.setdefault(attribute(instance), Candidates((), self.prefixes)).join(instance)
        instance.watchers.append(self)
        self.update(instance)

    def leave(self, instance: "Instance") -> None:
        """Forget a member."""
        for parts in self._parts.values():
            for part in parts.values():
                if instance.id in part._members:
                    part.leave(instance)
        instance.watchers.remove(self)
        self._count(self._members.pop(instance.id), -1)
        self._remove(instance)

    def update(self, instance: "Instance") -> None:
        """A member has changed."""
        if instance.ready:
            counted = (instance, 1, len(instance.assigned), instance.capacity, instance.unread_tokens)
        else:
            counted = (instance, 0, 0, 0, 0)
        self._count(self._members[instance.id], -1)
        self._count(counted, 1)
        self._members[instance.id] = counted
        if not instance.has_credit:
            self._remove(instance)
            return
        if instance.id not in self._position:
            self._position[instance.id] = len(self._free)
            self._free.append(instance)
            self.seeds.append(instance.seed)
        for ordering in self._orderings.values():
            ordering.set(instance)

    def _count(self, counted: "tuple[Instance, int, int, int, int]", sign: int) -> None:
        _, ready, assigned, capacity, unread = counted
        self.ready += sign * ready
        self._assigned += sign * assigned
        self._capacity += sign * capacity
        self._unread += sign * unread

    def _remove(self, instance: "Instance") -> None:
        position = self._position.pop(instance.id, None)
        if position is None:
            return
        last, seed = self._free.pop(), self.seeds.pop()
        if last is not instance:
            self._free[position] = last
            self.seeds[position] = seed
            self._position[last.id] = position
        for ordering in self._orderings.values():
            ordering.discard(instance)
