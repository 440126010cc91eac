"""The queue against a plain model of it: a list, searched through at every pop."""

from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sagellm.scheduler.policies import BasePolicy, Fifo, Key, PolicyOptions, Priority
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest

from .making import make_request


class FairByUser(BasePolicy):
    """As a virtual token counter would: users in order of what they were charged, each user's in order."""

    name: ClassVar[str] = "fair"

    def __init__(self) -> None:
        super().__init__()
        self.counters: dict[str, int] = {}

    def group(self, request: TrackedRequest, now_s: float) -> str:
        return request.request.user_id

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        return (self.counters.get(group, 0),)

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        user = request.request.user_id
        self.counters[user] = self.counters.get(user, 0) + input_tokens


class Relegating(BasePolicy):
    """As slo_aware would: by deadline (here the priority), until it has passed; those go last, by arrival."""

    name: ClassVar[str] = "relegating"

    def group(self, request: TrackedRequest, now_s: float) -> str:
        return "late" if now_s > request.priority else "in time"

    def key(self, request: TrackedRequest) -> Key:
        return (request.priority,)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        return (group == "late",)


def drain(queue: RequestQueue, now_s: float = 0.0) -> list[TrackedRequest]:
    """Everything in the queue, in its order."""
    found = []
    while (request := queue.pop(now_s)) is not None:
        found.append(request)
    return found


def filled(policy: BasePolicy, requests: list[TrackedRequest]) -> RequestQueue:
    queue = RequestQueue(policy)
    for request in requests:
        queue.push(request, 0.0)
    return queue


@given(st.lists(st.integers(0, 4), max_size=29))
def test_priority_pops_by_priority_and_then_by_arrival_within_the_ageing_time(priorities: list[int]) -> None:
    requests = [make_request(sequence, priority) for sequence, priority in enumerate(priorities)]
    popped = drain(filled(Priority(PolicyOptions(ageing_s=30.0)), requests))
    assert popped == sorted(requests, key=lambda r: (r.priority, r.sequence))


@given(st.permutations(range(30)))
def test_fifo_goes_by_the_queues_sequence_in_whatever_order_requests_come_back(order: list[int]) -> None:
    popped = drain(filled(Fifo(), [make_request(sequence, priority=sequence % 5) for sequence in order]))
    assert [r.sequence for r in popped] == sorted(order)


def test_a_users_backlog_does_not_hold_up_another_user() -> None:
    policy = FairByUser()
    queue = filled(policy, [make_request(i, user_id="greedy") for i in range(100)])
    for sequence in range(100, 103):
        queue.push(make_request(sequence, user_id="modest"), 0.0)
    order = []
    for _ in range(6):
        request = queue.pop(0.0)
        assert request is not None
        policy.charge(request, 10)
        order.append(request.request.user_id)
    assert order == ["greedy", "modest"] * 3


def test_requests_that_cannot_make_their_deadline_go_last() -> None:
    requests = [make_request(sequence, priority=deadline) for sequence, deadline in enumerate((10, 20, 30, 40))]
    queue = filled(Relegating(), requests)
    assert [r.priority for r in drain(queue, now_s=25.0)] == [30, 40, 10, 20]


class QueueMachine(RuleBasedStateMachine):
    """Pushes, pops, removals and charges in any order, under a policy whose ranks change."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = FairByUser()
        self.queue = RequestQueue(self.policy)
        self.waiting: list[TrackedRequest] = []
        self.gone: list[TrackedRequest] = []
        self.sequence = 0

    @rule(user=st.sampled_from("abc"))
    def push(self, user: str) -> None:
        self.sequence += 1
        request = make_request(self.sequence, user_id=user)
        self.queue.push(request, 0.0)
        self.waiting.append(request)

    @rule(tokens=st.integers(0, 5))
    def pop(self, tokens: int) -> None:
        popped = self.queue.pop(0.0)
        if not self.waiting:
            assert popped is None
            return
        assert popped in self.waiting
        lowest = min(self.policy.counters.get(r.request.user_id, 0) for r in self.waiting)
        assert self.policy.counters.get(popped.request.user_id, 0) == lowest
        same_user = [r for r in self.waiting if r.request.user_id == popped.request.user_id]
        assert popped.sequence == min(r.sequence for r in same_user)
        self.waiting.remove(popped)
        self.gone.append(popped)
        self.policy.charge(popped, tokens)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        self.queue.remove(request, 0.0)
        self.waiting.remove(request)
        self.gone.append(request)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.gone))
        self.queue.push(request, 0.0)
        self.gone.remove(request)
        self.waiting.append(request)

    @invariant()
    def length_is_right(self) -> None:
        assert len(self.queue) == len(self.waiting)


TestQueueMachine = QueueMachine.TestCase


def test_what_is_taken_is_what_was_shown_even_while_many_change_their_group() -> None:
    queue = filled(Relegating(), [make_request(i, priority=i % 3) for i in range(200)])
    taken = []
    while (first := queue.first(5.0)) is not None:
        queue.take(first, 5.0)
        taken.append(first.sequence)
    assert sorted(taken) == list(range(200))
