"""What the worker counts, for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sagellm.histogram import Histogram
from sagellm_schemas import Ended, EngineState, InstanceStats, Outcome

TTFT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DURATION_BUCKETS_S = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Counters:
    """Counts of requests and their times within the worker, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        requests = Counter("sagellm_worker_requests", "Work items that ended", ["outcome"], registry=self.registry)
        self._ended = {outcome: requests.labels(outcome.value) for outcome in Outcome}
        self._ttft = Histogram(
            "sagellm_worker_time_to_first_token_seconds",
            "From accepting a work item to its first output",
            TTFT_BUCKETS_S,
            self.registry,
        ).only
        self._duration = Histogram(
            "sagellm_worker_request_seconds",
            "From accepting a work item to its end",
            DURATION_BUCKETS_S,
            self.registry,
        ).only

    def first_token(self, after_s: float) -> None:
        """A work item had its first output that long after it was accepted."""
        self._ttft.observe(after_s)

    def ended(self, ending: Ended) -> None:
        """A work item has ended."""
        self._ended[ending.outcome].inc()
        self._duration.observe(ending.duration_ms / 1000)


class EngineCollector(Collector):
    """The engine's own counters, as the latest heartbeat showed them: scraping never touches the engine."""

    def __init__(self, latest: Callable[[], InstanceStats | None]) -> None:
        self._latest = latest

    def collect(self) -> Iterable[Metric]:
        """All metrics of this moment."""
        heartbeat = self._latest()
        if heartbeat is None:
            return
        stats = heartbeat.stats
        yield GaugeMetricFamily(
            "sagellm_worker_ready", "1 when new requests are taken", value=heartbeat.state == EngineState.READY
        )
        gauges = {
            "running_requests": ("Requests in the engine's batch", stats.running),
            "waiting_requests": ("Requests that wait in the engine", stats.waiting),
            "kv_blocks": ("Blocks of the KV cache", stats.kv_blocks),
            "kv_blocks_free": ("Free blocks of the KV cache", stats.kv_blocks_free),
            "step_seconds": ("Duration of the latest engine steps", stats.step_ms / 1000),
        }
        for name, (help_text, value) in gauges.items():
            yield GaugeMetricFamily(f"sagellm_engine_{name}", help_text, value=value)
        if stats.gpu_utilization is not None:
            told = "Share of time in which the GPUs ran kernels, as their driver tells"
            yield GaugeMetricFamily("sagellm_engine_gpu_utilization_ratio", told, value=stats.gpu_utilization)
        if stats.step_ms_total:
            spent = "Time spent in engine steps"
            yield CounterMetricFamily("sagellm_engine_busy_seconds", spent, value=stats.step_ms_total / 1000)
        totals = {
            "steps": ("Engine steps", stats.steps_total),
            "prompt_tokens": ("Prompt tokens read", stats.prompt_tokens_total),
            "cached_tokens": ("Prompt tokens found in the prefix cache", stats.cached_tokens_total),
            "output_tokens": ("Tokens generated", stats.output_tokens_total),
            "preemptions": ("Requests put back for want of KV blocks", stats.preemptions_total),
        }
        if stats.speculation is not None:
            drafted, accepted = stats.speculation.drafted_tokens_total, stats.speculation.accepted_tokens_total
            totals["drafted_tokens"] = ("Tokens guessed ahead", drafted)
            totals["accepted_tokens"] = ("Tokens guessed ahead that were right", accepted)
        for name, (help_text, value) in totals.items():
            yield CounterMetricFamily(f"sagellm_engine_{name}", help_text, value=value)
