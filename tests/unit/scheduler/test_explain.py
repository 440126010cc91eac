"""Why a request does not run yet, and what a change of it does to its place."""

import pytest

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.management.explain import obstacle, why_not, why_pending, why_waiting
from sagellm.scheduler.policies import Policy, make_policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import Changes, TrackedRequest
from sagellm_schemas import EngineState, ErrorBody

from .making import TokenClock, make_instance, make_request


def full(name: str, capacity: int = 2) -> Instance:
    instance = make_instance(name, capacity)
    for i in range(capacity):
        instance.assign(f"{name}-{i}", 1)
    return instance


def closed(name: str, reason: str) -> Instance:
    instance = make_instance(name)
    instance.closed = reason
    return instance


def in_state(name: str, state: EngineState) -> Instance:
    instance = make_instance(name)
    instance.state = state
    return instance


def policy_of(name: str) -> Policy:
    policy = make_policy(name)
    policy.attach(TokenClock())
    return policy


def waiting(policy: Policy, *requests: TrackedRequest, now_s: float = 0.0) -> RequestQueue:
    queue = RequestQueue(policy)
    for request in requests:
        queue.push(request, now_s)
    return queue


@pytest.mark.parametrize(
    ("instances", "room", "next_free_s", "expected"),
    [
        ([], False, None, "no instance serves 'm'"),
        ([make_instance("a")], True, 0.0, ""),
        (
            [full("a"), full("b")],
            False,
            2.14,
            "both instances that take work are full (4 of 4 places in use), the next is free in about 2.1 s",
        ),
        (
            [full("a", 1)],
            False,
            0.0,
            "the only instance that takes work is full (1 of 1 places in use), the next is free at any moment",
        ),
        (
            [make_instance("a")],
            False,
            1.0,
            "the only instance that takes work has prompts to read first (0 of 2 places in use)",
        ),
        (
            [full("a", 1), closed("b", "its fan is broken")],
            False,
            None,
            "the only instance that takes work is full (1 of 1 places in use); "
            "b is closed by an operator (its fan is broken)",
        ),
        (
            [in_state("a", EngineState.DRAINING), in_state("b", EngineState.ERROR)],
            False,
            None,
            "none of the 2 instances takes work: a is draining, b reports an error of its engine",
        ),
        (
            [in_state(name, EngineState.STARTING) for name in "abcde"],
            False,
            None,
            "none of the 5 instances takes work: a still starts, b still starts, c still starts, and 2 more",
        ),
    ],
)
def test_what_is_in_the_way_of_a_whole_model_is_named(
    instances: list[Instance], room: bool, next_free_s: float | None, expected: str
) -> None:
    assert obstacle("m", instances, room=room, next_free_s=next_free_s) == expected


def test_an_instance_says_why_it_takes_no_work() -> None:
    assert why_not(make_instance("a")) == ""
    assert why_not(closed("a", "repairs")) == "is closed by an operator (repairs)"
    assert why_not(in_state("a", EngineState.STOPPED)) == "has stopped"


@pytest.mark.parametrize(
    ("policy", "fields", "now_s", "expected"),
    [
        ("fifo", {}, 1.0, "they came earlier"),
        ("priority", {"priority": 3}, 1.0, "as LOW, it counts as if it had come 90 s later"),
        ("priority", {"priority": 0}, 1.0, "as CRITICAL, it goes before all that come after it"),
        ("edf", {}, 1.0, "it has no deadline, and goes behind all that have one"),
        ("edf", {"ttft_slo_ms": 5000.0}, 3.0, "its deadline is in 3.0 s"),
        ("edf", {"ttft_slo_ms": 500.0}, 3.0, "its deadline has passed"),
        ("sjf", {"prompt_tokens": 2000}, 1.0, "it will take about 2.0 s, and shorter ones go first"),
        ("slo_aware", {}, 1.0, "it has no deadline; as NORMAL it counts as due 10 s after it came"),
        (
            "slo_aware",
            {"ttft_slo_ms": 9001.0},
            2.0,
            "it will be in time if it starts within 8.0 s, and others press",
        ),
        (
            "slo_aware",
            {"ttft_slo_ms": 500.0},
            2.0,
            "it is late: its deadline cannot be met any more, so it runs when",
        ),
        ("cost_optimized", {"priority": 3}, 2.0, "it may wait for 89 s more, and goes behind what is pressing"),
        ("cost_optimized", {"priority": 0}, 2.0, "it is pressing; as CRITICAL, it goes before all"),
        ("fair", {"user_id": "u"}, 1.0, "user 'u' has had least of all that wait"),
        ("fair", {}, 1.0, "whoever gives no user has had least"),
        ("adaptive", {"priority": 1}, 1.0, "as HIGH, it counts as if it had come 30 s later"),
    ],
)
def test_every_policy_says_why_a_request_stands_where_it_does(
    policy: str, fields: dict[str, object], now_s: float, expected: str
) -> None:
    chosen = policy_of(policy)
    request = make_request(1, **fields)  # type: ignore[arg-type]
    waiting(chosen, request, now_s=1.0)
    assert chosen.explain(request, now_s).startswith(expected)


def test_a_user_who_has_had_much_is_told_how_much_more_than_others() -> None:
    fair = policy_of("fair")
    greedy, modest = make_request(1, user_id="greedy"), make_request(2, user_id="modest")
    waiting(fair, greedy, modest)
    fair.charge(greedy, input_tokens=500)
    assert (
        fair.explain(greedy, 1.0)
        == "user 'greedy' has had 500 weighted tokens more than the one who has had least"
    )


def test_the_sentence_tells_place_policy_and_what_is_in_the_way() -> None:
    policy, request = policy_of("priority"), make_request(1, priority=3)
    waiting(policy, request)
    why = "as LOW, it counts as if it had come 90 s later"
    told = [why_waiting(request, place, "nobody is there", policy, 1.0) for place in (1, 2, 8, None)]
    assert told == [
        "It goes next, but nobody is there.",
        f"1 request goes before it under priority ({why}), and nobody is there.",
        f"7 requests go before it under priority ({why}), and nobody is there.",
        f"Too many requests to count go before it under priority ({why}), and nobody is there.",
    ]
    assert why_waiting(request, 1, "", policy, 1.0) == "It goes next, in this very moment."
    assert why_waiting(request, 1, "", policy, 1.0, held_back=True) == (
        f"It goes next, but priority keeps it back: {why}."
    )
    adaptive = policy_of("adaptive")
    waiting(adaptive, request)
    assert "before it under adaptive, now priority (" in why_waiting(request, 3, "", adaptive, 1.0)


def test_a_request_between_two_attempts_says_so() -> None:
    request = make_request(1)
    assert why_pending(request).startswith("It may have run before")
    request.failures, request.errors = 1, [ErrorBody(code="engine_error", message="out of luck")]
    assert why_pending(request).startswith("Attempt 1 failed (out of luck), and its reader is being asked")


@pytest.mark.parametrize(
    "name", ["fifo", "priority", "slo_aware", "cost_optimized", "fair", "adaptive", "edf", "sjf"]
)
def test_a_changed_request_stands_where_one_would_that_had_come_so(name: str) -> None:
    """Whatever the policy: as if it had asked for that from the beginning."""
    fields = [
        {"priority": i % 5, "user_id": f"u{i % 3}", "ttft_slo_ms": 9000.0 + 1000 * i if i % 2 else None}
        for i in range(12)
    ]
    wanted = {"priority": 0, "ttft_slo_ms": 8500.0}

    def order(queue: RequestQueue) -> list[str]:
        return [request.id for request in queue.preview(3.0)]

    changed = [make_request(i, arrival_s=1.0, **f) for i, f in enumerate(fields)]  # type: ignore[arg-type]
    queue = waiting(policy_of(name), *changed, now_s=1.0)
    changed[7].change(Changes(priority=0, ttft_slo_ms=8500.0))
    queue.change(changed[7], 2.0)
    from_the_start = [
        make_request(i, arrival_s=1.0, **(f | (wanted if i == 7 else {})))  # type: ignore[arg-type]
        for i, f in enumerate(fields)
    ]
    assert order(queue) == order(waiting(policy_of(name), *from_the_start, now_s=1.0))
    popped = [queue.pop(3.0) for _ in changed]
    assert {request.id for request in popped if request} == {request.id for request in changed}
    assert queue.pop(3.0) is None


def test_a_late_request_is_in_time_again_with_a_later_deadline() -> None:
    policy = policy_of("slo_aware")
    late, other = (
        make_request(1, arrival_s=0.0, ttft_slo_ms=100.0),
        make_request(2, arrival_s=0.0, ttft_slo_ms=50_000.0),
    )
    queue = waiting(policy, late, other)
    assert [request.id for request in queue.preview(1.0)] == ["r2", "r1"]
    assert queue.first(1.0) is other
    late.change(Changes(ttft_slo_ms=10_000.0))
    queue.change(late, 1.0)
    assert [request.id for request in queue.preview(1.0)] == ["r1", "r2"]
    assert queue.pop(1.0) is late
    assert queue.pop(1.0) is other
