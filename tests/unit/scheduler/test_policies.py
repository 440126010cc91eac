"""The laws of the policies' orders: nobody starves, those in time go before those who are late, users are even."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.scheduler.policies import (
    NAMES,
    Adaptive,
    Edf,
    Fair,
    PolicyOptions,
    Priority,
    Sjf,
    SloAware,
    make_policy,
)
from sagellm.scheduler.policies.base import Policy, Unknown
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest

from .making import TokenClock, make_request

CRITICAL, NORMAL, LOW, BACKGROUND = 0, 2, 3, 4


def serve(policy: Policy, requests: list[TrackedRequest], service_s: float) -> dict[int, float]:
    """When each starts, by sequence, on a server that takes one at a time."""
    queue, starts = RequestQueue(policy), {}
    coming = sorted(requests, key=lambda r: r.arrival_s)
    now_s = 0.0
    while coming or queue:
        if not queue:
            now_s = max(now_s, coming[0].arrival_s)
        while coming and coming[0].arrival_s <= now_s:
            queue.push(coming[0], coming.pop(0).arrival_s)
        popped = queue.pop(now_s)
        assert popped is not None
        policy.charge(popped, input_tokens=popped.prompt_tokens)
        starts[popped.sequence] = now_s
        now_s += service_s
    return starts


def attached(policy: Policy) -> Policy:
    policy.attach(TokenClock())
    return policy


arrivals = st.lists(
    st.builds(
        lambda at, priority, user, tokens, slo: (at, priority, user, tokens, slo),
        st.integers(0, 200),
        st.integers(0, 4),
        st.sampled_from("abc"),
        st.integers(1, 3000),
        st.sampled_from([None, 1000.0, 5000.0, 90_000.0]),
    ),
    max_size=40,
)


def made(rows: list[tuple[int, int, str, int, float | None]]) -> list[TrackedRequest]:
    return [
        make_request(i, priority, user, float(at), tokens, ttft_slo_ms=slo)
        for i, (at, priority, user, tokens, slo) in enumerate(rows)
    ]


@pytest.mark.parametrize("name", NAMES)
@given(rows=arrivals)
@settings(max_examples=25, deadline=None)
def test_every_policy_serves_everything_once_and_forecasts_without_changing_anything(
    name: str, rows: list[tuple[int, int, str, int, float | None]]
) -> None:
    policy = attached(make_policy(name))
    queue = RequestQueue(policy)
    requests = made(rows)
    for request in requests:
        queue.push(request, request.arrival_s)
    seen = list(queue.preview(200.0))
    assert sorted(r.sequence for r in seen) == list(range(len(requests)))
    assert len(queue) == len(requests)
    popped = []
    while (request := queue.pop(200.0)) is not None:
        policy.charge(request, input_tokens=request.prompt_tokens)
        popped.append(request)
    assert popped == seen


@given(rows=arrivals)
@settings(max_examples=50, deadline=None)
def test_under_priority_nobody_waits_behind_what_comes_later_than_ageing_allows(
    rows: list[tuple[int, int, str, int, float | None]],
) -> None:
    requests = made(rows)
    starts = serve(Priority(PolicyOptions(ageing_s=20.0)), requests, service_s=10.0)
    for waiting in requests:
        for later in requests:
            if later.arrival_s > waiting.arrival_s + 20.0 * max(0, waiting.priority - later.priority):
                assert starts[waiting.sequence] < starts[later.sequence]


def test_a_background_request_gets_its_turn_under_endless_critical_ones() -> None:
    requests = [make_request(i, CRITICAL) for i in range(1000)]
    requests.append(make_request(1000, BACKGROUND, arrival_s=10.0))
    assert serve(Priority(PolicyOptions(ageing_s=30.0)), requests, service_s=2.0)[1000] <= 2 * (10 + 120 + 2)


def test_requests_in_time_go_before_late_ones_which_go_by_arrival() -> None:
    queue = RequestQueue(attached(SloAware()))
    for sequence, slo_ms in enumerate((1000.0, 20_000.0, 500.0, 30_000.0)):
        queue.push(make_request(sequence, arrival_s=0.0, ttft_slo_ms=slo_ms), 0.0)
    assert [request.sequence for request in queue.preview(5.0)] == [1, 3, 0, 2]


def test_a_prompt_too_long_for_its_deadline_counts_as_late_before_the_deadline() -> None:
    queue = RequestQueue(attached(SloAware()))
    queue.push(make_request(0, arrival_s=0.0, prompt_tokens=3000, ttft_slo_ms=2000.0), 0.0)
    queue.push(make_request(1, arrival_s=0.0, prompt_tokens=1500, ttft_slo_ms=9000.0), 0.0)
    assert [request.sequence for request in queue.preview(0.0)] == [1, 0]


def test_of_requests_that_press_alike_the_smaller_goes_first() -> None:
    queue = RequestQueue(attached(SloAware()))
    queue.push(make_request(0, arrival_s=0.0, prompt_tokens=500, ttft_slo_ms=2000.0), 0.0)
    queue.push(make_request(1, arrival_s=0.1, prompt_tokens=10, ttft_slo_ms=2000.0), 0.1)
    assert [request.sequence for request in queue.preview(0.1)] == [1, 0]


def test_late_requests_have_their_share_in_an_overload_without_end() -> None:
    options = PolicyOptions(late_bound_s=20.0, late_share=0.25)
    policy = attached(SloAware(options))
    # One a second arrives, each takes two seconds of a server's time, so half are late for good.
    requests = [make_request(i, prompt_tokens=2000, ttft_slo_ms=4000.0) for i in range(400)]
    starts = serve(policy, requests, service_s=2.0)
    in_time = sum(starts[r.sequence] + 2 <= r.arrival_s + 4 for r in requests)
    assert in_time >= 400 * 0.5 * (1 - 0.5) - 10, "late requests took more than half"
    late_early = [r for r in requests[:50] if starts[r.sequence] + 2 > r.arrival_s + 4]
    assert late_early
    assert max(starts[r.sequence] - r.arrival_s for r in late_early) < 400, "late requests starved"
    assert isinstance(policy, SloAware)
    assert policy.relegated_total == policy.relegated_left > 100
    assert policy.relegated_wait_max_s >= policy.relegated_wait_sum_s / policy.relegated_left >= 4


def test_a_request_that_is_late_gets_the_larger_share_the_longer_it_waits() -> None:
    policy = attached(SloAware(PolicyOptions(late_bound_s=20.0, late_share=0.1)))
    # Work for three servers in the first minute, for little more than half of one after it.
    rush = [make_request(i, arrival_s=i / 5, prompt_tokens=600, ttft_slo_ms=3000.0) for i in range(300)]
    calm = [make_request(300 + i, arrival_s=60.0 + i, prompt_tokens=600, ttft_slo_ms=3000.0) for i in range(600)]
    starts = serve(policy, rush + calm, service_s=0.6)
    assert max(starts[request.sequence] - request.arrival_s for request in rush + calm) < 300
    in_time = sum(starts[request.sequence] <= request.arrival_s + 2.4 for request in calm)
    assert in_time > 450, "late requests may have half of the time at most"


def test_a_size_of_which_too_many_are_late_does_not_stand_back_any_more() -> None:
    def order_after(large_ones_late: int) -> list[int]:
        policy = attached(SloAware(PolicyOptions(work_weight=5.0)))
        queue = RequestQueue(policy)
        for i in range(100):
            late = i < large_ones_late
            queue.push(make_request(i, arrival_s=0.0, prompt_tokens=400, ttft_slo_ms=100.0 if late else 1e6), 0.0)
            queue.push(make_request(1000 + i, arrival_s=0.0, prompt_tokens=10, ttft_slo_ms=1e6), 0.0)
        while queue.pop(0.0):
            pass
        queue.push(make_request(5000, arrival_s=0.0, prompt_tokens=400, ttft_slo_ms=5000.0), 0.0)
        queue.push(make_request(5001, arrival_s=0.5, prompt_tokens=10, ttft_slo_ms=5000.0), 0.5)
        return [request.sequence for request in queue.preview(0.5)]

    assert order_after(large_ones_late=0) == [5001, 5000]
    assert order_after(large_ones_late=80) == [5000, 5001]


def test_nobody_stands_back_by_more_than_the_time_it_was_given() -> None:
    queue = RequestQueue(attached(SloAware(PolicyOptions(work_weight=1000.0))))
    queue.push(make_request(0, arrival_s=0.0, prompt_tokens=500, ttft_slo_ms=2000.0), 0.0)
    queue.push(make_request(1, arrival_s=1.8, prompt_tokens=1, ttft_slo_ms=2000.0), 1.8)
    assert [request.sequence for request in queue.preview(1.4)] == [0, 1]


def test_only_policies_that_mind_deadlines_ask_for_paced_steps() -> None:
    paced = {name for name in NAMES if make_policy(name).paced}
    assert paced == {"slo_aware", "cost_optimized"}, "adaptive is paced once one of these is in use"


@given(rows=arrivals)
@settings(max_examples=50, deadline=None)
def test_edf_goes_by_deadline_and_sjf_by_size(rows: list[tuple[int, int, str, int, float | None]]) -> None:
    for policy, size in (
        (Edf(), lambda r: r.arrival_s + (r.request.ttft_slo_ms or float("inf")) / 1e3),
        (Sjf(), lambda r: r.prompt_tokens),
    ):
        queue = RequestQueue(attached(policy))
        for request in made(rows):
            queue.push(request, 0.0)
        sizes = [size(request) for request in queue.preview(0.0)]
        assert sizes == sorted(sizes)


@given(
    seed=st.integers(0, 1 << 32),
    running=st.integers(1, 6),
)
@settings(max_examples=25, deadline=None)
def test_users_who_both_wait_get_the_same_within_the_bound_of_vtc(seed: int, running: int) -> None:
    """The bound: 2 * max(weight of one prompt, weight of all output that runs at once)."""
    draw = random.Random(seed)
    costs = [(draw.randint(1, 500), draw.randint(0, 500)) for _ in range(200)]
    policy = Fair()
    queue = RequestQueue(policy)
    for i, (prompt, _) in enumerate(costs):
        queue.push(make_request(i, user_id="greedy" if i % 4 else "modest", prompt_tokens=prompt), 0.0)
    service = {"greedy": 0.0, "modest": 0.0}
    waiting = {"greedy": 150, "modest": 50}
    bound = 2 * max(500, 2 * 500 * running)
    batch: list[TrackedRequest] = []
    while (request := queue.pop(0.0)) is not None:
        user = request.request.user_id
        waiting[user] -= 1
        policy.charge(request, input_tokens=request.prompt_tokens)
        service[user] += request.prompt_tokens
        batch.append(request)
        if len(batch) == running:
            ended = batch.pop(0)
            policy.charge(ended, output_tokens=costs[ended.sequence][1])
            service[ended.request.user_id] += 2 * costs[ended.sequence][1]
        if all(waiting.values()):
            assert abs(service["greedy"] - service["modest"]) <= bound


def test_a_user_who_returns_has_saved_nothing_up() -> None:
    policy = Fair()
    queue = RequestQueue(policy)
    for i in range(20):
        queue.push(make_request(i, user_id="steady", prompt_tokens=100), 0.0)
    for _ in range(10):
        request = queue.pop(0.0)
        assert request is not None
        policy.charge(request, input_tokens=100)
    for i in range(20, 30):
        queue.push(make_request(i, user_id="returning", prompt_tokens=100), 0.0)
    order = []
    for _ in range(6):
        request = queue.pop(0.0)
        assert request is not None
        policy.charge(request, input_tokens=100)
        order.append(request.request.user_id)
    assert sorted(order) == ["returning"] * 3 + ["steady"] * 3


def test_a_tier_of_twice_the_weight_gets_twice_the_tokens() -> None:
    policy = Fair(PolicyOptions(tier_weights={"premium": 2.0}))
    queue = RequestQueue(policy)
    for i in range(60):
        user, tier = ("rich", "premium") if i % 2 else ("poor", "standard")
        queue.push(make_request(i, user_id=user, prompt_tokens=10, billing_tier=tier), 0.0)
    users = []
    for _ in range(30):
        request = queue.pop(0.0)
        assert request is not None
        policy.charge(request, input_tokens=10)
        users.append(request.request.user_id)
    assert users.count("rich") == 20


def test_the_accounts_go_on_under_another_leader() -> None:
    before, after = Fair(), Fair()
    before.charge(make_request(0, user_id="greedy"), input_tokens=1000)
    after.restore(before.state())
    queue = RequestQueue(after)
    queue.push(make_request(2, user_id="modest"), 0.0)
    queue.push(make_request(1, user_id="greedy"), 0.0)
    assert [request.request.user_id for request in queue.preview(0.0)] == ["modest", "greedy"]


def feed(policy: Adaptive, queue: RequestQueue, first: int, count: int, **fields: object) -> None:
    for i in range(first, first + count):
        queue.push(make_request(i, arrival_s=float(i), **fields), float(i))  # type: ignore[arg-type]
        assert queue.pop(float(i)) is not None


def test_adaptive_takes_the_policy_that_the_traffic_asks_for_and_says_why() -> None:
    policy = Adaptive()
    queue = RequestQueue(policy)
    feed(policy, queue, 0, 100)
    assert policy.active == "fifo"
    feed(policy, queue, 100, 100, ttft_slo_ms=1000.0)
    assert policy.active == "slo_aware"
    assert policy.paced
    assert "deadlines" in policy.reason


def test_adaptive_does_not_change_to_and_fro() -> None:
    policy = Adaptive()
    queue = RequestQueue(policy)
    for i in range(0, 2000, 20):
        feed(policy, queue, i, 19)
        feed(policy, queue, i + 19, 1, ttft_slo_ms=1000.0)
    assert policy.switches_total <= 2


def test_adaptive_puts_what_waits_into_the_new_order() -> None:
    policy = Adaptive()
    policy.attach(TokenClock())
    queue = RequestQueue(policy)
    for i in range(30):
        queue.push(make_request(i, arrival_s=float(i)), float(i))
    assert policy.active == "fifo"
    for i in range(30, 60):
        queue.push(make_request(i, priority=i % 5, arrival_s=float(i)), float(i))
    assert policy.active == "priority"
    popped = [queue.pop(60.0) for _ in range(60)]
    places = [request.arrival_s + 30.0 * request.priority for request in popped if request]
    assert places == sorted(places)
    assert len(places) == 60


def test_a_policy_that_knows_nothing_still_works() -> None:
    for name in NAMES:
        policy = make_policy(name)
        policy.attach(Unknown())
        queue = RequestQueue(policy)
        queue.push(make_request(0, ttft_slo_ms=1.0), 0.0)
        assert queue.pop(100.0) is not None
