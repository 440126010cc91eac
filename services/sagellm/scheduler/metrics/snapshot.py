"""`Snapshot`s: the scheduler's metrics in one message, for people and APIs."""

import time
from collections.abc import Mapping

from sagellm_schemas import RequestPriority, SloCompliance, Snapshot

from .prometheus import SchedulerMetrics
from .sketch import merged


def take_snapshot(
    metrics: SchedulerMetrics,
    *,
    policy: str,
    routing: str,
    outstanding: int,
    running: int,
    queue_lengths: Mapping[str, int],
) -> Snapshot:
    """How things stand now; under a millisecond of work, whatever the load."""
    now_s = time.monotonic()
    requests = metrics.requests
    totals, window = requests.totals, requests.window
    slots = window.slots(now_s)
    length_s = max(1.0, now_s - window.since_s(now_s))
    latency = merged(slot.latency for slot in slots).summary()
    good = sum(slot.good for slot in slots)
    by_priority = {}
    for priority in RequestPriority:
        stated = sum(slot.slo_requests.get(priority, 0) for slot in slots)
        if stated:
            by_priority[priority.name] = _compliance(
                stated, sum(slot.slo_violations.get(priority, 0) for slot in slots)
            )
    overall = _compliance(
        sum(c.requests for c in by_priority.values()), sum(c.violations for c in by_priority.values())
    )
    return Snapshot(
        taken_at=time.time(),
        window_s=length_s,
        policy=policy,
        policy_in_use=metrics.policy.active if metrics.policy else policy,
        policy_reason=metrics.policy.reason if metrics.policy else "",
        routing=routing,
        total_requests=totals.arrived,
        completed_requests=totals.completed,
        failed_requests=totals.failed,
        cancelled_requests=totals.cancelled,
        active_requests=outstanding,
        running_requests=running,
        queue_length=sum(queue_lengths.values()),
        queue_length_by_model=dict(queue_lengths),
        avg_latency_ms=latency.avg_ms,
        p95_latency_ms=latency.p95_ms,
        p99_latency_ms=latency.p99_ms,
        latency=latency,
        ttft=merged(slot.ttft for slot in slots).summary(),
        tpot=merged(slot.tpot for slot in slots).summary(),
        itl_max=merged(slot.longest_gap for slot in slots).summary(),
        queue_wait=merged(slot.queue_wait for slot in slots).summary(),
        tokens_per_second=sum(slot.output_tokens for slot in slots) / length_s,
        requests_per_second=sum(slot.completed for slot in slots) / length_s,
        goodput_rps=good / length_s,
        slo_violations=overall.violations,
        slo_compliance_rate=overall.rate,
        slo_compliance_by_priority=by_priority,
        avg_gpu_utilization=metrics.utilization.gpus or 0.0,
        avg_instance_utilization=metrics.utilization.average,
        cost=totals.cost,
        cost_per_slo_met_request=totals.cost / totals.good if totals.good else 0.0,
        fairness_gap_tokens=requests.fairness.gap_tokens,
        decision_us=metrics.decision_us(),
        prediction_error=metrics.prediction_error(),
    )


def _compliance(requests: int, violations: int) -> SloCompliance:
    return SloCompliance(
        requests=requests, violations=violations, rate=1 - violations / requests if requests else 1.0
    )
