"""What is counted of requests that ended."""

import pytest

from sagellm.control_plane.metrics import Recorder
from sagellm.control_plane.request import RequestMetadata
from sagellm.control_plane.result import RequestResult
from sagellm_schemas import RequestStatus, Usage


def ended(
    status: RequestStatus = RequestStatus.COMPLETED, *, latency_ms: float = 100.0, late_gaps: int = 0
) -> RequestResult:
    return RequestResult(
        request_id="r",
        status=status,
        latency_ms=latency_ms,
        ttft_ms=10.0,
        usage=Usage(completion_tokens=10),
        late_gaps=late_gaps,
    )


def test_nothing_yet_is_zero_and_full_compliance() -> None:
    metrics = Recorder().metrics((), ())
    assert (metrics.total_requests, metrics.p99_latency_ms, metrics.slo_compliance_rate) == (0, 0.0, 1.0)


def test_latencies_are_of_what_completed() -> None:
    recorder = Recorder()
    for latency_ms in range(1, 101):
        recorder.ended(RequestMetadata(), ended(latency_ms=latency_ms))
    recorder.ended(RequestMetadata(), ended(RequestStatus.CANCELLED, latency_ms=9e9))
    metrics = recorder.metrics((), ())
    assert metrics.avg_latency_ms == 50.5
    assert (metrics.p95_latency_ms, metrics.p99_latency_ms) == (96, 100)
    assert (metrics.total_requests, metrics.completed_requests, metrics.cancelled_requests) == (101, 100, 1)


@pytest.mark.parametrize(
    ("slos", "met"),
    [
        ({"slo_deadline_ms": 100}, True),
        ({"slo_deadline_ms": 99}, False),
        ({"ttft_slo_ms": 10}, True),
        ({"ttft_slo_ms": 9}, False),
        ({"slo_deadline_ms": 1000, "ttft_slo_ms": 9}, False),
    ],
)
def test_a_request_meets_its_slo_when_it_meets_each_of_its_goals(slos: dict[str, float], met: bool) -> None:
    recorder = Recorder()
    recorder.ended(RequestMetadata(priority="critical", **slos), ended())
    metrics = recorder.metrics((), ())
    assert metrics.slo_violations == (not met)
    assert metrics.slo_compliance_by_priority == {"CRITICAL": float(met)}


@pytest.mark.parametrize("late_gaps", [0, 1])
def test_pauses_between_tokens_are_held_to_their_slo(late_gaps: int) -> None:
    recorder = Recorder()
    recorder.ended(RequestMetadata(tbt_slo_ms=10), ended(late_gaps=late_gaps))
    assert recorder.metrics((), ()).slo_violations == late_gaps


def test_failures_break_slos_and_requests_without_one_do_not_count() -> None:
    recorder = Recorder()
    recorder.ended(RequestMetadata(slo_deadline_ms=1e9), ended(RequestStatus.FAILED))
    recorder.ended(RequestMetadata(), ended(RequestStatus.FAILED))
    metrics = recorder.metrics((), ())
    assert (metrics.failed_requests, metrics.slo_violations, metrics.slo_compliance_rate) == (2, 1, 0.0)
