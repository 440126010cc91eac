"""Preemption: who is sent back for a CRITICAL request, and when nobody is."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.preemption import LOST_AFTER_S, MOST_PREEMPTIONS, Preemption, victim_of
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm_schemas import (
    Codec,
    Control,
    EngineState,
    EngineStats,
    InstanceInfo,
    InstanceStats,
    RequestStatus,
    SamplingParams,
    subjects,
)

from .making import make_request

CRITICAL, NORMAL, LOW, BACKGROUND = 0, 2, 3, 4


def running(sequence: int, priority: int = NORMAL, max_tokens: int = 5000, **fields: object) -> TrackedRequest:
    """A request that lasts for a long time."""
    return make_request(sequence, priority, sampling=SamplingParams(max_tokens=max_tokens), **fields)


def chosen(*candidates: tuple[TrackedRequest, float]) -> str | None:
    victim = victim_of(candidates, lengthy())
    return None if victim is None else victim.id


def lengthy() -> Estimates:
    """Estimates by which every answer is as long as it may be: 5000 tokens of about 8 ms."""
    estimates = Estimates()
    for _ in range(20):
        estimates.lengths.add("", "m", 1, 150_000)
    return estimates


def test_the_lowest_priority_goes_first() -> None:
    assert chosen((running(1, NORMAL), 1.0), (running(2, BACKGROUND), 9.0), (running(3, LOW), 1.0)) == "r2"


def test_of_one_priority_whoever_has_computed_least_goes_first() -> None:
    assert chosen((running(1), 9.0), (running(2), 3.0), (running(3), 6.0)) == "r2"
    assert chosen((running(1, prompt_tokens=900), 1.0), (running(2, prompt_tokens=10), 1.0)) == "r2"


def test_one_that_may_still_be_on_its_way_is_the_last_choice_of_its_priority() -> None:
    assert chosen((running(1), 0.01), (running(2), 9.0)) == "r2"
    assert chosen((running(1, LOW), 0.01), (running(2), 9.0)) == "r1"


def test_of_equal_losses_whoever_would_stay_longest_goes_first() -> None:
    assert chosen((running(1, max_tokens=3000), 1.0), (running(2, max_tokens=4000), 1.0)) == "r2"


def test_nobody_goes_who_may_not_be_preempted() -> None:
    worn, cancelled = running(3), running(4)
    worn.preemptions = MOST_PREEMPTIONS
    cancelled.cancelled = True
    stubborn = running(1, can_be_preempted=False)
    assert chosen((stubborn, 0.0), (running(2, CRITICAL), 0.0), (worn, 0.0), (cancelled, 0.0)) is None


def test_nobody_goes_when_a_credit_will_be_free_soon_anyway() -> None:
    ends_soon = running(2, max_tokens=1000)
    lasts_s = lengthy().service_s(ends_soon)
    assert chosen((running(1), 1.0), (ends_soon, lasts_s - 0.1)) is None
    assert chosen((running(1), 1.0), (ends_soon, lasts_s - 0.5)) == "r1"


def test_a_request_that_lasts_longer_than_predicted_is_not_waited_for() -> None:
    overdue = running(2, max_tokens=1000)
    assert chosen((running(1), 1.0), (overdue, lengthy().service_s(overdue) + 5.0)) == "r1"


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 4), st.floats(0.0, 60.0)), max_size=20))
def test_a_victim_may_be_preempted_and_none_of_lower_priority_may(
    asked: list[tuple[int, bool, int, float]],
) -> None:
    candidates = []
    for sequence, (priority, willing, preemptions, elapsed_s) in enumerate(asked, 1):
        tracked = running(sequence, priority, can_be_preempted=willing)
        tracked.preemptions = preemptions
        candidates.append((tracked, elapsed_s))
    victim = victim_of(candidates, lengthy(), soon_s=0.0)
    allowed = [
        t for t, _ in candidates if t.priority > CRITICAL and t.request.can_be_preempted and t.preemptions < 3
    ]
    if victim is None:
        assert not allowed
    else:
        assert victim in allowed
        assert victim.priority == max(t.priority for t in allowed)


class Sent:
    """Takes what would go out on NATS."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, Control]] = []

    def send(self, subject: str, payload: bytes) -> None:
        self.orders.append((subject, Codec(Control).decode(payload)))


class Cluster:
    """Full instances of one model, and the preemption that looks at them."""

    def __init__(self, *capacities: int) -> None:
        self.table = RequestTable()
        self.instances = Instances()
        self.sent = Sent()
        self.metrics = SchedulerMetrics()
        self.preemption = Preemption(
            self.table,
            self.instances,
            lengthy(),
            self.sent,  # type: ignore[arg-type]
            self.metrics,
            term=7,
        )
        sequence = 100
        for number, capacity in enumerate(capacities):
            info = InstanceInfo(instance_id=f"i{number}", model="m", max_concurrent_requests=capacity)
            stats = InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats())
            self.instances.heard(stats, 0.0)
            for _ in range(capacity):
                sequence += 1
                self.run(running(sequence), info.instance_id)

    def run(self, tracked: TrackedRequest, instance_id: str) -> None:
        self.table.add(tracked)
        tracked.status, tracked.attempt, tracked.instance = RequestStatus.RUNNING, 1, instance_id
        tracked.dispatched_s = time.monotonic()
        instance = self.instances.get(instance_id)
        assert instance is not None
        instance.assign(tracked.id, turn=1)

    def hand_back(self, tracked: TrackedRequest) -> None:
        instance = self.instances.get(tracked.instance)
        assert instance is not None
        instance.release(tracked.id)
        self.preemption.returned(tracked)
        tracked.status = RequestStatus.PENDING

    def victim(self, order: int = -1) -> TrackedRequest:
        tracked = self.table.get(self.sent.orders[order][1].preempt[0])
        assert tracked is not None
        return tracked

    @property
    def counted(self) -> float:
        return self.metrics.registry.get_sample_value("sagellm_scheduler_preemptions_total") or 0.0


def critical(sequence: int = 1) -> TrackedRequest:
    return make_request(sequence, CRITICAL)


def test_the_order_names_the_victim_and_the_term_at_its_instance() -> None:
    cluster = Cluster(2)
    cluster.preemption.make_room(critical())
    ((subject, order),) = cluster.sent.orders
    assert subject == subjects.control("i0")
    assert (order.term, order.drain) == (7, False)
    assert order.preempt == [cluster.victim().id]


@pytest.mark.parametrize("priority", [1, NORMAL, LOW, BACKGROUND])
def test_only_critical_requests_preempt(priority: int) -> None:
    cluster = Cluster(1)
    cluster.preemption.make_room(make_request(1, priority))
    assert not cluster.sent.orders


def test_a_critical_request_has_one_victim_however_often_it_is_asked_for() -> None:
    cluster = Cluster(3)
    first = critical()
    cluster.preemption.make_room(first)
    cluster.preemption.make_room(first)
    cluster.hand_back(cluster.victim())
    cluster.run(running(1), "i0")  # somebody else took the credit
    cluster.preemption.make_room(first)
    assert len(cluster.sent.orders) == 1
    assert cluster.counted == 1


def test_the_next_critical_request_waits_until_the_victim_of_the_one_before_is_back() -> None:
    cluster = Cluster(3)
    cluster.preemption.make_room(critical(1))
    victim = cluster.victim()
    cluster.preemption.make_room(critical(2))
    assert len(cluster.sent.orders) == 1
    cluster.hand_back(victim)
    cluster.run(running(9, CRITICAL), "i0")
    cluster.preemption.make_room(critical(2))
    assert len(cluster.sent.orders) == 2
    assert cluster.victim() is not victim


def test_a_victim_that_ended_by_itself_was_not_preempted() -> None:
    cluster = Cluster(2)
    cluster.preemption.make_room(critical(1))
    victim = cluster.victim()
    instance = cluster.instances.get("i0")
    assert instance is not None
    instance.release(victim.id)
    cluster.table.remove(victim)
    cluster.run(running(9, CRITICAL), "i0")
    cluster.preemption.make_room(critical(2))
    assert len(cluster.sent.orders) == 2
    assert (cluster.counted, victim.preemptions) == (0, 0)


def test_a_request_is_preempted_three_times_at_most() -> None:
    cluster = Cluster(1)
    victim = cluster.table.get("r101")
    assert victim is not None
    for sequence in range(1, 6):
        cluster.preemption.make_room(critical(sequence))
        if len(cluster.sent.orders) < sequence:
            break
        cluster.hand_back(victim)
        victim.status = RequestStatus.RUNNING
        instance = cluster.instances.get("i0")
        assert instance is not None
        instance.assign(victim.id, turn=2)
        victim.attempt += 1
    assert (len(cluster.sent.orders), victim.preemptions) == (3, 3)


def test_an_order_without_effect_is_repeated() -> None:
    cluster = Cluster(1)
    cluster.preemption.make_room(critical(1))
    order = cluster.preemption._orders["m"]
    order.sent_s -= LOST_AFTER_S + 0.1
    cluster.preemption.make_room(critical(1))
    assert [order.preempt for _, order in cluster.sent.orders] == [["r101"], ["r101"]]


def test_nobody_is_sent_back_while_an_instance_only_has_to_read_its_prompts_first() -> None:
    cluster = Cluster(2, 2)
    instance = cluster.instances.get("i1")
    assert instance is not None
    instance.release("r103")
    cluster.preemption.make_room(critical())
    assert not cluster.sent.orders


def test_in_a_large_cluster_a_victim_that_one_look_misses_is_found_by_a_later_one() -> None:
    cluster = Cluster(*[200] * 10)
    running_now = [tracked for i in range(101, 2101) if (tracked := cluster.table.get(f"r{i}"))]
    for tracked in running_now[:-1]:
        tracked.cancelled = True
    for sequence in range(1, 11):
        cluster.preemption.make_room(critical(sequence))
    assert [order.preempt for _, order in cluster.sent.orders] == [[running_now[-1].id]]


def test_what_runs_on_an_instance_that_takes_no_more_work_is_left_alone() -> None:
    cluster = Cluster(1, 1)
    instance = cluster.instances.get("i0")
    assert instance is not None
    instance.state = EngineState.DRAINING
    cluster.preemption.make_room(critical())
    assert cluster.victim().instance == "i1"
