"""The waiting requests of one model, in the order of the policy."""

from collections.abc import Iterator
from itertools import islice

from sagellm.scheduler.order import Order
from sagellm.scheduler.policies.base import Policy
from sagellm.scheduler.requests import TrackedRequest

AT_ONCE = 1000
"""So many requests are put into another order in one go: some milliseconds."""
BESIDE = 16
"""Steps of a larger change that `push` and `take` make beside their own work."""


class RequestQueue:
    """`push`, `first`, `take` and `remove` are O(log n) amortized, also while the order changes.

    When the policy's `ordering` becomes another one, or the policy does (`use`), a new order is laid out in small
    steps. Until it is complete the old one serves, then the new one, so at every moment the order is one policy's.
    """

    def __init__(self, policy: Policy, at_once: int = AT_ONCE) -> None:
        self._policy = policy
        self._at_once = at_once
        self._told = _told(policy)
        self._order = Order(policy.ordering)
        self._new: Order | None = None
        self._joining: tuple[Policy, ...] = ()
        self._change: Iterator[int] | None = None
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._order)

    def push(self, request: TrackedRequest, now_s: float) -> None:
        """Let `request` wait; it does not wait here yet."""
        for policy in self._told:
            policy.entered(request, now_s)
        self._order.place(request, now_s)
        if self._new is not None:
            for policy in self._joining:
                policy.entered(request, now_s)
            self._new.place(request, now_s)
        self.settle(now_s, BESIDE)

    def first(self, now_s: float) -> TrackedRequest | None:
        """The request whose turn it is; it goes on waiting. None if there is none."""
        return self._order.first(now_s)

    @property
    def first_group(self) -> str:
        """The policy's group of what `first` has just returned."""
        return self._order.first_group

    def take(self, first: TrackedRequest, now_s: float) -> None:
        """Take out what `first` has just returned."""
        self._order.take_first(now_s)
        self._tell_left(first, now_s)

    def pop(self, now_s: float) -> TrackedRequest | None:
        """`first` and `take` in one."""
        first = self.first(now_s)
        if first is not None:
            self.take(first, now_s)
        return first

    def remove(self, request: TrackedRequest, now_s: float) -> None:
        """Take out a request that waits here."""
        self._order.remove(request)
        self._tell_left(request, now_s)

    def change(self, request: TrackedRequest, now_s: float) -> None:
        """Put a request that waits here where it belongs, now that it asks for something else."""
        for policy in self._told:
            policy.changed(request, now_s)
        self._order.remove(request)
        self._order.place(request, now_s)
        if self._new is not None and request in self._new:
            for policy in self._joining:
                policy.changed(request, now_s)
            self._new.remove(request)
            self._new.place(request, now_s)
        self.settle(now_s, BESIDE)

    def use(self, policy: Policy, now_s: float) -> None:
        """Go over to the order of another policy; it is told of everything that waits."""
        self._policy = policy
        self.settle(now_s, BESIDE)

    def settle(self, now_s: float, steps: int) -> bool:
        """Make so many steps towards the order that the policy wants; whether there are more to make.

        A step takes some microseconds. Changes that are small are made in one go.
        """
        self._now_s = now_s
        if self._change is None:
            if self._policy is self._told[0] and self._policy.ordering is self._order.policy:
                return False
            self._change = self._steps()
            if len(self) <= self._at_once:
                steps = 2 * self._at_once + 1
        if sum(islice(self._change, steps)) < steps:
            self._change = None
        return True

    def preview(self, now_s: float) -> Iterator[TrackedRequest]:
        """The requests in the order in which they would be served if nothing else came, each found in O(log n).

        The queue may change while this is read: it goes by how things stood at its first step.
        """
        policy = self._order.policy.preview()
        order = self._order.copy(policy)
        while (request := order.first(now_s)) is not None:
            order.take_first(now_s)
            policy.left(request, now_s)
            policy.charge(request, input_tokens=request.prompt_tokens)
            yield request

    def _tell_left(self, request: TrackedRequest, now_s: float) -> None:
        for policy in self._told:
            policy.left(request, now_s)
        if self._new is not None and request in self._new:
            self._new.remove(request)
            for policy in self._joining:
                policy.left(request, now_s)
        self.settle(now_s, BESIDE)

    def _steps(self) -> Iterator[int]:
        """Change to the order that the policy has now: one request at each step, of which it yields the number."""
        old, told = self._order, _told(self._policy)
        self._joining = tuple(policy for policy in told if policy not in self._told)
        leaving = [policy for policy in self._told if policy not in told]
        new = self._new = Order(told[-1])
        for request in old.requests():
            if request in old and request not in new:
                for policy in self._joining:
                    policy.entered(request, self._now_s)
                new.place(request, self._now_s)
            yield 1
        self._order, self._new, self._told, self._joining = new, None, told, ()
        for request in old.requests():
            for policy in leaving:
                policy.left(request, self._now_s)
            yield 1


def _told(policy: Policy) -> tuple[Policy, ...]:
    """Who is told of what waits: the policy, and the one whose order holds, if that is another."""
    ordering = policy.ordering
    return (policy,) if ordering is policy else (policy, ordering)
