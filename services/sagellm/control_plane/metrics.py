"""`PerformanceMetrics`: the original's names, counted over the requests of this process."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sagellm.scheduler.metrics.slo import met, states_slo
from sagellm_schemas import RequestPriority, RequestStatus

from .answer import Answer
from .instance import ExecutionInstance
from .request import RequestMetadata
from .result import RequestResult

WINDOW = 10_000
"""Latencies and rates are of the latest so many requests that ended."""


@dataclass(frozen=True, kw_only=True)
class PerformanceMetrics:
    """How the requests of this process fare. Rates of SLOs are 1.0 while no request had one."""

    total_requests: int = 0
    completed_requests: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    active_requests: int = 0
    queued_requests: int = 0
    avg_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    p99_latency_ms: float = 0.0
    avg_ttft_ms: float = 0.0
    p99_ttft_ms: float = 0.0
    tokens_per_second: float = 0.0
    requests_per_second: float = 0.0
    slo_violations: int = 0
    slo_compliance_rate: float = 1.0
    slo_compliance_by_priority: dict[str, float] = field(default_factory=dict)
    avg_gpu_utilization: float = 0.0
    """Mean share of the instances' credits in use."""


@dataclass(frozen=True)
class _Ended:
    at_s: float
    tokens: int
    latency_ms: float
    ttft_ms: float | None


class Recorder:
    """Counts what ends."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._counts = dict.fromkeys(RequestStatus, 0)
        self._ended: deque[_Ended] = deque(maxlen=WINDOW)
        self._slo_total = dict.fromkeys(RequestPriority, 0)
        self._slo_missed = dict.fromkeys(RequestPriority, 0)

    def ended(self, request: RequestMetadata, result: RequestResult) -> None:
        """`request` has ended."""
        self._counts[result.status] += 1
        if result.status is RequestStatus.COMPLETED:
            tokens = result.usage.completion_tokens
            self._ended.append(_Ended(time.monotonic(), tokens, result.latency_ms, result.ttft_ms))
        if result.status is not RequestStatus.CANCELLED and states_slo(request):
            priority = RequestPriority.parse(request.priority)
            self._slo_total[priority] += 1
            self._slo_missed[priority] += not _met(request, result)

    def metrics(
        self, open_answers: Iterable[Answer], instances: Sequence[ExecutionInstance]
    ) -> PerformanceMetrics:
        """All of them, now."""
        states = [answer.status for answer in open_answers]
        latencies = sorted(ended.latency_ms for ended in self._ended)
        ttfts = sorted(ended.ttft_ms for ended in self._ended if ended.ttft_ms is not None)
        since_s = self._ended[0].at_s if len(self._ended) == WINDOW else self._started_s
        length_s = max(1e-3, time.monotonic() - since_s)
        slo_total, slo_missed = sum(self._slo_total.values()), sum(self._slo_missed.values())
        ends = (RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.CANCELLED)
        return PerformanceMetrics(
            total_requests=len(states) + sum(self._counts[status] for status in ends),
            completed_requests=self._counts[RequestStatus.COMPLETED],
            failed_requests=self._counts[RequestStatus.FAILED],
            cancelled_requests=self._counts[RequestStatus.CANCELLED],
            active_requests=states.count(RequestStatus.RUNNING),
            queued_requests=len(states) - states.count(RequestStatus.RUNNING),
            avg_latency_ms=_mean(latencies),
            p95_latency_ms=_quantile(latencies, 0.95),
            p99_latency_ms=_quantile(latencies, 0.99),
            avg_ttft_ms=_mean(ttfts),
            p99_ttft_ms=_quantile(ttfts, 0.99),
            tokens_per_second=sum(ended.tokens for ended in self._ended) / length_s,
            requests_per_second=len(self._ended) / length_s,
            slo_violations=slo_missed,
            slo_compliance_rate=1 - slo_missed / slo_total if slo_total else 1.0,
            slo_compliance_by_priority={
                priority.name: 1 - self._slo_missed[priority] / total
                for priority, total in self._slo_total.items()
                if total
            },
            avg_gpu_utilization=_mean([instance.current_load for instance in instances]),
        )


def _met(request: RequestMetadata, result: RequestResult) -> bool:
    if result.status is not RequestStatus.COMPLETED:
        return False
    return met(
        request,
        latency_ms=result.latency_ms,
        ttft_ms=result.ttft_ms,
        output_tokens=result.usage.completion_tokens,
        late_gaps=result.late_gaps,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
