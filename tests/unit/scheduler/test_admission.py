"""Admission: rates that hold, counts that never leak, and a time to come again that is worth something."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.places import Places
from sagellm.scheduler.admission import Admission, Backlog, Bounds, Rates
from sagellm.scheduler.admission.rate import MINUTE_S, Rate
from sagellm.scheduler.admission.rates import used_tokens
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.forecast import forecast
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import Ended, Outcome, QueueFull, RateLimited, SageError, SamplingParams, Usage

from .making import make_instance, make_request

amounts = st.floats(0.5, 200.0)
pauses = st.floats(0.0, 90.0)


class Queues:
    """As many wait as the test says; `due` are those that could be sent already."""

    def __init__(self) -> None:
        self.by_model: dict[str, int] = {}
        self.by_user: dict[str, int] = {}
        self.due = 0

    def length(self, model: str) -> int:
        return self.by_model.get(model, 0)

    def length_of(self, user_id: str) -> int:
        return self.by_user.get(user_id, 0)

    def catch_up(self) -> None:
        for waiting in (self.by_model, self.by_user):
            for name in waiting:
                waiting[name] -= self.due
        self.due = 0


class Gate:
    """An admission with its surroundings; each instance has ten credits, each request lasts five seconds."""

    def __init__(self, capacity: int = 10, **bounds: object) -> None:
        self.queues = Queues()
        made = Bounds(**bounds)  # type: ignore[arg-type]
        self.rates = Rates(made)
        self.reasons: list[str] = []
        backlog = Backlog(self.queues, lambda _: 5.0, lambda _: capacity)
        self.admission = Admission(made, backlog, self.rates, lambda _: 40, self.reasons.append)

    def refusal(self, tracked: TrackedRequest, now_s: float = 0.0) -> SageError | None:
        return self.admission.judge(tracked, now_s)


def asking(sequence: int = 1, max_tokens: int | None = 90, **fields: object) -> TrackedRequest:
    return make_request(sequence, prompt_tokens=10, sampling=SamplingParams(max_tokens=max_tokens), **fields)


@given(st.lists(st.tuples(pauses, amounts), min_size=1, max_size=60), st.floats(10.0, 100.0))
def test_over_any_time_no_more_is_admitted_than_one_bucket_and_what_refills_it(
    events: list[tuple[float, float]], per_minute: float
) -> None:
    rate, now_s, admitted = Rate(per_minute), 1e6, []
    for pause_s, amount in events:
        now_s += pause_s
        if not rate.wait_s("a", amount, now_s):
            rate.take("a", amount, now_s)
            admitted.append((now_s, amount))
    for first, (since_s, _) in enumerate(admitted):
        total = 0.0
        for at_s, amount in admitted[first:]:
            allowed = per_minute * (1 + (at_s - since_s) / MINUTE_S)
            # The last one may be larger than a bucket; before it, all kept to the bound.
            assert total + min(amount, per_minute) <= allowed * (1 + 1e-6)
            total += amount


@given(st.lists(st.tuples(pauses, amounts), min_size=1, max_size=60), amounts, st.floats(10.0, 100.0))
def test_who_waits_as_long_as_told_is_admitted(
    events: list[tuple[float, float]], wanted: float, per_minute: float
) -> None:
    rate, now_s = Rate(per_minute), 1e6
    for pause_s, amount in events:
        now_s += pause_s
        rate.take("a", amount, now_s)
    wait_s = rate.wait_s("a", wanted, now_s)
    assert rate.wait_s("a", wanted, now_s + wait_s) == 0
    if wait_s > 0.01:
        assert rate.wait_s("a", wanted, now_s + 0.9 * wait_s) > 0


@given(st.lists(st.tuples(st.sampled_from("abc"), amounts, pauses), max_size=40), st.randoms())
def test_buckets_are_full_again_and_forgotten_when_everything_was_given_back(events, random) -> None:
    rate, now_s, taken = Rate(50.0), 1e6, []
    for name, amount, pause_s in events:
        now_s += pause_s
        rate.take(name, amount, now_s)
        taken.append((name, amount))
    random.shuffle(taken)
    for name, amount in taken:
        rate.give_back(name, amount, now_s)
    for name in "abc":
        assert rate.wait_s(name, 50.0, now_s) < 1e-3
        rate.give_back(name, 1.0, now_s + 1e-3)
    assert len(rate) == 0


def test_nobody_is_remembered_for_longer_than_it_takes_to_refill_and_no_more_than_so_many() -> None:
    rate = Rate(60.0, most_names=100)
    for number in range(1000):
        rate.take(f"user {number}", 1 + number % 7, now_s=number / 1000)
        assert len(rate) <= 100
    rate.take("greedy", 3000, now_s=1.0)
    for number in range(1000):
        rate.take(f"other {number}", 1, now_s=1.0)
    assert rate.wait_s("greedy", 1, now_s=1.0) > 2000


def test_what_is_larger_than_a_minutes_worth_is_admitted_alone_and_paid_off() -> None:
    rate = Rate(100.0)
    assert rate.wait_s("a", 500, now_s=0.0) == 0
    rate.take("a", 500, now_s=0.0)
    assert rate.wait_s("a", 1, now_s=0.0) == pytest.approx(240.6)
    assert rate.wait_s("a", 500, now_s=0.0) == pytest.approx(300.0)


def test_a_users_requests_a_minute_are_bounded_whatever_others_do() -> None:
    gate = Gate(user_requests_per_minute=2)
    assert [gate.refusal(asking(user_id="ann")) for _ in range(2)] == [None, None]
    refused = gate.refusal(asking(user_id="ann"))
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == pytest.approx(30.0)
    assert "ann" in refused.message
    assert "30 s" in refused.message
    assert gate.refusal(asking(user_id="bob")) is None
    assert gate.refusal(asking(user_id="ann"), now_s=30.0) is None
    assert gate.reasons == ["user_requests"]


def test_whoever_names_no_user_shares_one_users_bounds() -> None:
    gate = Gate(user_requests_per_minute=1)
    assert gate.refusal(asking()) is None
    refused = gate.refusal(asking())
    assert refused is not None
    assert "without a name" in refused.message


def test_a_models_rate_counts_all_users() -> None:
    gate = Gate(model_requests_per_minute=2)
    assert [gate.refusal(asking(user_id=user)) for user in "ab"] == [None, None]
    assert gate.refusal(asking(user_id="c")) is not None
    assert gate.refusal(asking(user_id="c", model="other")) is None
    assert gate.reasons == ["model_requests"]


def test_a_tier_multiplies_its_users_bounds() -> None:
    gate = Gate(user_requests_per_minute=1, queued_per_user=2, tiers={"gold": 3.0})
    assert [gate.refusal(asking(user_id="ann", billing_tier="gold")) for _ in range(3)] == [None] * 3
    assert gate.refusal(asking(user_id="ann", billing_tier="gold")) is not None
    gate.queues.by_user["bob"] = 5
    assert gate.refusal(asking(user_id="bob", billing_tier="gold")) is None
    assert gate.refusal(asking(user_id="bob")) is not None


def test_tokens_are_reserved_for_prompt_and_answer_and_what_was_not_used_is_given_back() -> None:
    gate = Gate(user_tokens_per_minute=150)
    first = asking(user_id="ann", max_tokens=90)
    assert gate.refusal(first) is None
    second = asking(user_id="ann", max_tokens=90)
    refused = gate.refusal(second)
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == pytest.approx(20.0)  # 50 tokens at 150 a minute
    first.dispatched_s = 1.0
    usage = Usage(prompt_tokens=10, completion_tokens=30)
    gate.rates.settle(first, Ended(id="", attempt=1, outcome=Outcome.FINISHED, usage=usage), 0.0)
    assert gate.refusal(second) is None


def test_a_request_without_max_tokens_reserves_what_such_answers_usually_take() -> None:
    gate = Gate(model_tokens_per_minute=60)
    tracked = asking(max_tokens=None)
    assert gate.refusal(tracked) is None
    assert tracked.reserved_tokens == 10 + 40


def test_a_refused_request_takes_nothing() -> None:
    gate = Gate(user_requests_per_minute=5, user_tokens_per_minute=100)
    assert gate.refusal(asking(user_id="ann", max_tokens=90)) is None
    for _ in range(20):
        assert gate.refusal(asking(user_id="ann", max_tokens=90)) is not None
    assert gate.refusal(asking(user_id="ann", max_tokens=90), now_s=60.0) is None


def test_what_never_ran_used_nothing_and_what_was_cancelled_used_what_it_had() -> None:
    waited, ran = asking(), asking()
    ran.dispatched_s = 1.0
    assert used_tokens(waited, None) == 0
    cancelled = Ended(id="", attempt=1, outcome=Outcome.CANCELLED, usage=Usage(completion_tokens=7))
    assert used_tokens(ran, cancelled) == 17
    ran.resume_token_ids = [1] * 9
    assert used_tokens(ran, None) == 19


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(1, 200), st.integers(0, 400), st.booleans(), st.floats(0.0, 20.0)
        ),
        max_size=60,
    )
)
def test_when_all_have_ended_nothing_stays_reserved(
    requests: list[tuple[str, int, int, bool, float]],
) -> None:
    gate, now_s, running = Gate(model_tokens_per_minute=500, user_tokens_per_minute=300), 1e6, []
    for user, max_tokens, answered, ran, pause_s in requests:
        now_s += pause_s
        tracked = asking(user_id=user, max_tokens=max_tokens)
        if gate.refusal(tracked, now_s) is None:
            tracked.dispatched_s = 1.0 if ran else 0.0
            usage = Usage(prompt_tokens=10, completion_tokens=answered)
            running.append((tracked, Ended(id="", attempt=1, outcome=Outcome.FINISHED, usage=usage)))
        else:
            assert tracked.reserved_tokens == 0
    used = 0
    for tracked, ended in running:
        gate.rates.settle(tracked, ended, now_s)
        gate.rates.settle(tracked, ended, now_s)  # once is enough
        assert tracked.reserved_tokens == 0
        used += used_tokens(tracked, ended)
    refused = gate.refusal(asking(user_id="new", max_tokens=490), now_s)
    waits_s = refused.retry_after_s if refused is not None else 0.0
    assert waits_s is not None
    assert waits_s <= used * MINUTE_S / 500 + 1e-3  # the model owes no more than what was used


def test_the_queue_of_a_model_is_bounded_and_refused_ones_are_given_its_places_one_after_the_other() -> None:
    gate = Gate(queued_per_model=20)
    gate.queues.by_model["m"] = 19
    assert gate.refusal(asking()) is None
    gate.queues.by_model["m"] = 20
    refused = [gate.refusal(asking()) for _ in range(30)]
    assert all(isinstance(error, QueueFull) for error in refused)
    # Ten credits and five seconds a request: a place every half second, and all 20 are served after ten.
    told = [error.retry_after_s for error in refused if error is not None]
    assert told[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert max(told) == told[-1] == pytest.approx(10.0)
    assert gate.refusal(asking(model="other")) is None
    assert set(gate.reasons) == {"model_queue"}


def test_what_can_be_sent_already_does_not_count_as_waiting() -> None:
    gate = Gate(queued_per_model=20, queued_per_user=20)
    gate.queues.by_model["m"] = gate.queues.by_user["ann"] = 20
    gate.queues.due = 5
    assert gate.refusal(asking(user_id="ann")) is None
    assert gate.queues.length("m") == 15


def test_a_user_is_told_when_the_first_of_its_own_will_probably_start() -> None:
    gate = Gate(queued_per_user=4)
    gate.queues.by_model["m"] = 40
    gate.queues.by_user["ann"] = 4
    refused = gate.refusal(asking(user_id="ann"))
    assert isinstance(refused, QueueFull)
    assert refused.retry_after_s == pytest.approx(5.0)
    assert gate.refusal(asking(user_id="bob")) is None
    assert gate.reasons == ["user_queue"]


def test_where_nothing_serves_the_model_the_time_is_a_guess() -> None:
    gate = Gate(capacity=0, queued_per_model=1)
    gate.queues.by_model["m"] = 1
    refused = gate.refusal(asking())
    assert refused is not None
    assert refused.retry_after_s == 5.0


def test_of_several_bounds_the_one_that_holds_longest_is_told() -> None:
    gate = Gate(queued_per_model=1, user_requests_per_minute=1)
    assert gate.refusal(asking(user_id="ann")) is None
    gate.queues.by_model["m"] = 1
    refused = gate.refusal(asking(user_id="ann"))
    assert isinstance(refused, RateLimited)
    assert refused.retry_after_s == pytest.approx(60.0)


def test_without_bounds_nobody_is_ever_refused() -> None:
    assert Gate().admission.unbounded
    assert Gate(tiers={"gold": 2.0}).admission.unbounded
    assert not Gate(queued_per_user=1).admission.unbounded


def test_the_told_places_are_those_that_the_forecast_sees() -> None:
    """A thousand wait at two instances: the last refused one is told about when the forecast starts the last."""
    estimates, instances = Estimates(), [make_instance("a", 8), make_instance("b", 8)]
    waiting = [asking(sequence, max_tokens=90) for sequence in range(1, 1001)]
    running = [asking(sequence, max_tokens=90) for sequence in range(2001, 2017)]
    for place, tracked in enumerate(running):
        tracked.instance = "ab"[place % 2]
    service_s = estimates.service_s(waiting[0])
    at_work = [(tracked, service_s * place / 16) for place, tracked in enumerate(running)]
    last = max(e.start_s or 0.0 for e in forecast(waiting, at_work, instances, estimates, now_s=0.0))
    queues = Queues()
    queues.by_model["m"] = 1000
    backlog = Backlog(queues, estimates.service_s, lambda _: 16)
    told = [backlog.model_place_s(asking(), 0.0) for _ in range(2000)]
    assert told[-1] == pytest.approx(last, rel=0.05)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 2.0), st.floats(0.0, 50.0)), max_size=50))
def test_a_place_is_never_in_the_past_and_never_beyond_the_longest_wait(
    refusals: list[tuple[float, float, float]],
) -> None:
    places, now_s = Places(), 1e3
    for pause_s, interval_s, most_s in refusals:
        now_s += pause_s
        told_s = places.retry_after_s(now_s, interval_s, most_s)
        assert 0 < told_s <= max(interval_s, most_s) + 1e-9
        assert math.isfinite(told_s)
