"""What the scheduler measures, from what happened to requests."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.scheduler.metrics import SchedulerMetrics, take_snapshot
from sagellm.scheduler.metrics import requests as request_metrics
from sagellm.scheduler.metrics.fairness import FairnessGap
from sagellm.scheduler.metrics.sketch import Sketch, merged
from sagellm.scheduler.metrics.slo import met, tbt_met
from sagellm.scheduler.metrics.utilization import Utilization
from sagellm.scheduler.metrics.window import Window
from sagellm.scheduler.policies.adaptive import Adaptive
from sagellm.scheduler.requests import TrackedRequest
from sagellm.simulator.simulation import p99
from sagellm_schemas import Ended, EngineStats, InferenceRequest, Outcome, Snapshot, Usage

from .making import make_instance, make_request

NOW_S = 1_000_000.0


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> SchedulerMetrics:
    """Metrics whose clock stands at `NOW_S`."""
    monkeypatch.setattr(request_metrics.time, "time", lambda: NOW_S)
    return SchedulerMetrics({"premium": 2.0})


def _request(**fields: object) -> TrackedRequest:
    tracked = make_request(1, arrival_s=NOW_S - 1.0)
    tracked.request = msgspec.structs.replace(tracked.request, **fields)
    return tracked


def _finish(metrics: SchedulerMetrics, tracked: TrackedRequest, **fields: object) -> None:
    """Its attempt took 900 ms, the first token 400 ms of them, for 11 tokens."""
    given = {"first_token_ms": 400.0, "duration_ms": 900.0, "usage": Usage(prompt_tokens=5, completion_tokens=11)}
    ended = Ended(id="r1", attempt=1, outcome=Outcome.FINISHED, **(given | fields))
    metrics.requests.arrived()
    metrics.requests.attempt_ended(tracked, ended)
    metrics.requests.ended(tracked, Outcome.FINISHED, ended)


def _snapshot(metrics: SchedulerMetrics) -> Snapshot:
    return take_snapshot(
        metrics, policy="fifo", routing="random", outstanding=3, running=1, queue_lengths={"a": 1, "b": 1}
    )


def test_latency_ttft_and_tpot_follow_from_durations_and_arrival(metrics: SchedulerMetrics) -> None:
    _finish(metrics, _request())
    snapshot = _snapshot(metrics)
    assert snapshot.avg_latency_ms == pytest.approx(1000)
    assert snapshot.p99_latency_ms == pytest.approx(1000, rel=0.02)
    assert snapshot.ttft.avg_ms == pytest.approx(500)
    assert snapshot.tpot.avg_ms == pytest.approx(50)
    assert (snapshot.total_requests, snapshot.completed_requests, snapshot.active_requests) == (1, 1, 3)
    assert snapshot.queue_length == 2


def test_the_first_token_of_an_earlier_attempt_is_the_first(metrics: SchedulerMetrics) -> None:
    tracked = _request()
    first = Ended(id="r1", attempt=1, outcome=Outcome.RETURNED, first_token_ms=100.0, duration_ms=900.0)
    metrics.requests.attempt_ended(tracked, first)
    _finish(metrics, tracked)
    assert _snapshot(metrics).ttft.avg_ms == pytest.approx(200)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({}, True),
        ({"slo_deadline_ms": 1001.0}, True),
        ({"slo_deadline_ms": 999.0}, False),
        ({"ttft_slo_ms": 501.0}, True),
        ({"ttft_slo_ms": 499.0}, False),
        ({"tbt_slo_ms": 51.0}, True),
    ],
)
def test_an_slo_is_met_when_every_part_of_it_is(
    metrics: SchedulerMetrics, slo: dict[str, float], good: bool
) -> None:
    _finish(metrics, _request(**slo))
    snapshot = _snapshot(metrics)
    assert snapshot.slo_violations == (not good)
    assert snapshot.slo_compliance_rate == (1.0 if good else 0.0)
    assert snapshot.slo_compliance_by_priority.keys() == ({"NORMAL"} if slo else set())
    assert (snapshot.goodput_rps > 0) == good


def test_an_answer_without_tokens_has_its_first_at_its_end() -> None:
    request = InferenceRequest(model="m", prompt="x", ttft_slo_ms=100.0, tbt_slo_ms=1.0)
    assert met(request, latency_ms=90.0, ttft_ms=None, output_tokens=0, late_gaps=0)
    assert not met(request, latency_ms=110.0, ttft_ms=None, output_tokens=0, late_gaps=0)


@pytest.mark.parametrize(("tokens", "late"), [(1, 0), (2, 0), (100, 0), (101, 1), (201, 2)])
def test_one_gap_in_a_hundred_may_be_late(tokens: int, late: int) -> None:
    request = InferenceRequest(model="m", prompt="x", tbt_slo_ms=50.0)
    assert met(request, latency_ms=1.0, ttft_ms=1.0, output_tokens=tokens, late_gaps=late)
    assert not met(request, latency_ms=1.0, ttft_ms=1.0, output_tokens=tokens, late_gaps=late + 1)


@given(st.lists(st.floats(0.0, 100.0), max_size=300))
def test_service_and_simulator_read_the_gaps_of_a_request_alike(gaps_ms: list[float]) -> None:
    request = InferenceRequest(model="m", prompt="x", tbt_slo_ms=50.0)
    late = sum(gap > 50.0 for gap in gaps_ms)
    assert tbt_met(request, len(gaps_ms) + 1, late) == (p99(np.array(gaps_ms)) <= 50.0)


def test_a_pause_for_another_attempt_is_a_gap(metrics: SchedulerMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = _request(tbt_slo_ms=100.0)
    first = Ended(id="r1", attempt=1, outcome=Outcome.RETURNED, first_token_ms=100.0, duration_ms=900.0)
    monkeypatch.setattr(request_metrics.time, "time", lambda: NOW_S - 0.7)
    metrics.requests.attempt_ended(tracked, first)
    monkeypatch.setattr(request_metrics.time, "time", lambda: NOW_S)
    _finish(metrics, tracked, first_token_ms=150.0, duration_ms=700.0)
    assert _snapshot(metrics).slo_violations == 1


def test_a_failure_violates_its_slo_and_a_cancel_does_not(metrics: SchedulerMetrics) -> None:
    metrics.requests.ended(_request(slo_deadline_ms=1e6), Outcome.FAILED)
    metrics.requests.ended(_request(slo_deadline_ms=1e6), Outcome.CANCELLED)
    snapshot = _snapshot(metrics)
    assert snapshot.slo_violations == 1
    assert (snapshot.failed_requests, snapshot.cancelled_requests) == (1, 1)


def test_cost_is_what_requests_are_told_they_cost(metrics: SchedulerMetrics) -> None:
    usage = Usage(prompt_tokens=5, completion_tokens=11, cost=0.25)
    _finish(metrics, _request(ttft_slo_ms=1.0), usage=usage)
    _finish(metrics, _request(), usage=usage)
    metrics.requests.ended(_request(), Outcome.FAILED)
    snapshot = _snapshot(metrics)
    assert snapshot.cost == 0.5
    assert snapshot.cost_per_slo_met_request == 0.5


def test_a_snapshot_is_the_same_after_a_journey_as_json(metrics: SchedulerMetrics) -> None:
    _finish(metrics, _request(slo_deadline_ms=5.0))
    snapshot = _snapshot(metrics)
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot) == snapshot


@given(st.lists(st.floats(min_value=0.001, max_value=1e7), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_within_one_percent(values: list[float], share: float) -> None:
    parts = [Sketch(), Sketch()]
    for i, value in enumerate(values):
        parts[i % 2].add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert merged(parts).quantile_ms(share) == pytest.approx(exact, rel=0.0101)


def test_a_window_forgets_what_is_older_than_a_minute() -> None:
    window = Window(100.0)
    window.at(101.0).completed += 1
    window.at(158.0).completed += 1
    assert sum(slot.completed for slot in window.slots(159.0)) == 2
    assert sum(slot.completed for slot in window.slots(166.0)) == 1
    assert window.since_s(500.0) == pytest.approx(445.0)
    assert window.slots(500.0) == []


def test_the_gap_is_between_users_who_wait() -> None:
    fairness = FairnessGap()
    fairness.waits("a")
    fairness.waits("b")
    fairness.sample()
    fairness.served("a", 100, 50)
    fairness.served("b", 100, 0, weight=2.0)
    fairness.served("idle", 10**6, 0)
    fairness.sample()
    assert fairness.gap_tokens == 200 - 50
    fairness.waits_no_more("a")
    fairness.sample()
    assert fairness.gap_tokens == 0


def test_a_user_who_returns_is_lifted_to_the_least_served() -> None:
    fairness = FairnessGap()
    fairness.waits("a")
    fairness.sample()
    fairness.served("a", 1000, 0)
    fairness.sample()
    fairness.waits("b")
    fairness.sample()
    assert fairness.gap_tokens == 0
    fairness.served("a", 10, 0)
    fairness.sample()
    assert fairness.gap_tokens == 10


def test_utilization_is_the_time_in_steps_or_else_the_credits_in_use() -> None:
    utilization = Utilization()
    steps, shares = make_instance("steps"), make_instance("credits", capacity=2)
    shares.assign("r1", 1)
    steps.heard_s, steps.stats = 10.0, EngineStats(step_ms_total=100.0)
    utilization.sample([steps, shares])
    steps.heard_s, steps.stats = 11.0, EngineStats(step_ms_total=600.0)
    utilization.sample([steps, shares])
    assert utilization.average == pytest.approx((0.5 + 0.5) / 2)
    utilization.sample([])
    assert utilization.average == 0.0


def test_gpu_utilization_is_of_those_whose_driver_tells(metrics: SchedulerMetrics) -> None:
    on_cpu, on_gpu = make_instance("cpu"), make_instance("gpu")
    metrics.count_instances([on_cpu])
    assert _snapshot(metrics).avg_gpu_utilization == 0.0
    on_gpu.stats = EngineStats(gpu_utilization=0.8)
    metrics.count_instances([on_cpu, on_gpu])
    assert _snapshot(metrics).avg_gpu_utilization == 0.8


def test_metrics_say_which_policy_adaptive_uses_and_why(metrics: SchedulerMetrics) -> None:
    assert _snapshot(metrics).policy_in_use == "fifo"
    adaptive = Adaptive()
    metrics.uses(adaptive)
    snapshot = _snapshot(metrics)
    assert (snapshot.policy_in_use, snapshot.policy_reason) == (adaptive.active, adaptive.reason)
