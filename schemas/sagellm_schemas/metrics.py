"""`Snapshot`: how the pipeline does, as its leader sees it, under the original control plane's names."""

import msgspec


class MetricsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """To the leading scheduler: "how do you do?" Answered with a `Snapshot`; an empty message will do, too."""


class Quantiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A distribution over the window, in milliseconds; all 0 while `count` is 0. Quantiles are within 1 %."""

    count: int = 0
    avg_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0


class SloCompliance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests that stated an SLO and ended within the window; the rate is 1 where there were none."""

    requests: int = 0
    violations: int = 0
    rate: float = 1.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of the whole pipeline, for people and APIs; Prometheus has its own.

    Counts without `window` in their description are totals since this leader began, `active_requests` and
    `queue_length` are of this moment, and all else is of the last `window_s` seconds. Times count from a request's
    arrival; `cost` is in the currency of the instances' prices.
    """

    taken_at: float
    """Unix seconds."""
    window_s: float
    leader: bool = True
    policy: str = ""
    policy_in_use: str | msgspec.UnsetType = msgspec.UNSET
    """Which one `adaptive` has chosen; else the same as `policy`."""
    policy_reason: str | msgspec.UnsetType = msgspec.UNSET
    """Why `adaptive` has chosen it; empty for other policies."""
    routing: str = ""

    total_requests: int = 0
    """Requests that this leader has answered for."""
    completed_requests: int = 0
    failed_requests: int = 0
    cancelled_requests: int = 0
    """Cancelled, or given up because their reader had gone."""
    active_requests: int = 0
    """Requests that have not ended: waiting, running, or on the way back into the queue."""
    running_requests: int = 0
    queue_length: int = 0
    queue_length_by_model: dict[str, int] = msgspec.field(default_factory=dict)

    avg_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    p99_latency_ms: float = 0.0
    latency: Quantiles = Quantiles()
    """From arrival to the end of completed requests."""
    ttft: Quantiles = Quantiles()
    """Time to first token, from arrival."""
    tpot: Quantiles = Quantiles()
    """Time per output token after the first, one figure per request."""
    itl_max: Quantiles = Quantiles()
    """The longest pause between two outputs, one figure per request."""
    queue_wait: Quantiles = Quantiles()
    """From arrival to the first dispatch."""

    tokens_per_second: float = 0.0
    """Output tokens of requests that completed."""
    requests_per_second: float = 0.0
    """Requests that completed."""
    goodput_rps: float = 0.0
    """Requests that completed and met every SLO they stated."""

    slo_violations: int = 0
    slo_compliance_rate: float = 1.0
    slo_compliance_by_priority: dict[str, SloCompliance] = msgspec.field(default_factory=dict)

    avg_gpu_utilization: float = 0.0
    """Share of time in which GPUs ran kernels, as their drivers tell, averaged over the instances that have some,
    0 to 1; 0 where none has, as on a CPU."""
    avg_instance_utilization: float | msgspec.UnsetType = msgspec.UNSET
    """Share of the last second that instances were busy, averaged over all of them; 0 to 1."""
    cost: float = 0.0
    """Cost of all requests that ended under this leader: the sum of what their usage says."""
    cost_per_slo_met_request: float = 0.0
    fairness_gap_tokens: float = 0.0
    """Largest difference in weighted service between two users who both have requests waiting."""
    decision_us: dict[str, float] = msgspec.field(default_factory=dict)
    """Mean time of one decision (which request, and where to), in microseconds, by policy."""
    prediction_error: dict[str, float] = msgspec.field(default_factory=dict)
    """Mean error of the latest predictions as a share of what came true, by what was predicted."""
