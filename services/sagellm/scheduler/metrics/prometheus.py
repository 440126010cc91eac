"""What the scheduler counts, for Prometheus."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sagellm.histogram import Histogram, Series
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.policies import Policy

from .policy import PolicyInUse
from .requests import RequestMetrics
from .utilization import Utilization

WAIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
TPOT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 5)
DECISION_BUCKETS_S = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 0.025)


class SchedulerMetrics:
    """The counters of one scheduler process, in a registry of their own."""

    def __init__(self, tier_weights: Mapping[str, float] | None = None) -> None:
        """`tier_weights` are the billing tiers' shares, for the fairness gap."""
        self.registry = CollectorRegistry()
        self.leader = self._gauge("leader", "1 while this process leads")
        self.takeovers = self._counter("takeovers", "Times this process became the leader")
        self.waiting = Gauge(
            "sagellm_scheduler_queue_length", "Waiting requests", ["model"], registry=self.registry
        )
        self.outstanding = self._gauge(
            "outstanding_requests", "Requests that have not ended; of a standby, those that it has a copy of"
        )
        self.wait = self._histogram(
            "queue_wait_seconds", "From arrival to the first dispatch", WAIT_BUCKETS_S
        ).only
        self.dispatches = self._counter("dispatches", "Work items sent to instances")
        self.failures = self._counter("attempt_failures", "Attempts that failed")
        self.retries = self._counter("retries", "Requests to be dispatched again, for whatever reason")
        self.dead_letters = self._counter("dead_letters", "Requests and messages given up")
        self.rejected = self._counter("rejected", "Messages that could not become work")
        self.cancelled = self._counter("cancelled", "Requests cancelled while they waited")
        self.failed = self._counter("failed", "Requests ended by the scheduler with an error")
        self.preemptions = self._counter("preemptions", "Running requests sent back to make room for another")
        self._refusals = Counter(
            "sagellm_scheduler_refusals",
            "New requests refused, by the bound that they would have exceeded",
            ["reason"],
            registry=self.registry,
        )
        self.instances = Gauge(
            "sagellm_scheduler_instances", "Known instances", ["model", "state"], registry=self.registry
        )
        self.fenced = self._counter("fenced_instances", "Instances found dead or hung")
        self._decisions = self._histogram(
            "decision_seconds",
            "Time of one decision: which request goes next, and where to",
            DECISION_BUCKETS_S,
            "policy",
        )
        self._decided: dict[str, Series] = {}
        self.utilization = Utilization()
        self.policy: PolicyInUse | None = None
        """What a leader uses; see `uses`."""
        self.estimates: Estimates | None = None
        """Set by whoever keeps them."""
        self.requests = RequestMetrics(
            self._histogram("ttft_seconds", "From arrival to the first token", WAIT_BUCKETS_S, "priority"),
            self._histogram("tpot_seconds", "Mean time per token after the first", TPOT_BUCKETS_S, "priority"),
            self._histogram("latency_seconds", "From arrival to the end", WAIT_BUCKETS_S, "priority"),
            tier_weights or {},
        )
        self.registry.register(_Totals(self))

    def refused(self, reason: str) -> None:
        """A new request was refused."""
        self._refusals.labels(reason).inc()

    def prediction_error(self) -> dict[str, float]:
        """Relative mean error of the estimates, by what they predict."""
        if self.estimates is None:
            return {}
        return {
            "output_tokens": self.estimates.output_error.relative,
            "first_token": self.estimates.first_token_error.relative,
            "finish": self.estimates.finish_error.relative,
        }

    def count_instances(self, instances: list[Instance]) -> None:
        """Bring the number of instances, and how busy they are, up to date."""
        self.instances.clear()
        for instance in instances:
            self.instances.labels(instance.info.model, instance.state).inc()
        self.utilization.sample(instances)

    def uses(self, policy: Policy) -> None:
        """A leader orders its queue by `policy` from now on."""
        self.policy = PolicyInUse(policy)

    def decided(self, policy: str, elapsed_s: float, decisions: int) -> None:
        """`decisions` were made in `elapsed_s`."""
        series = self._decided.get(policy)
        if series is None:
            series = self._decided[policy] = self._decisions.series(policy)
        series.observe(elapsed_s / decisions, decisions)

    def decision_us(self) -> dict[str, float]:
        """Mean time of a decision by policy, in microseconds."""
        return {policy: series.sum * 1e6 / sum(series.counts) for policy, series in self._decided.items()}

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"sagellm_scheduler_{name}", what, registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"sagellm_scheduler_{name}", what, registry=self.registry)

    def _histogram(self, name: str, what: str, bounds_s: tuple[float, ...], label: str | None = None) -> Histogram:
        return Histogram(f"sagellm_scheduler_{name}", what, bounds_s, self.registry, label)


class _Totals(Collector):
    """The totals of `RequestMetrics`, read when Prometheus asks: counting takes no lock."""

    def __init__(self, metrics: SchedulerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        totals = self._metrics.requests.totals
        arrived = "Requests that this process has answered for"
        yield CounterMetricFamily("sagellm_scheduler_requests", arrived, value=totals.arrived)
        ended = CounterMetricFamily("sagellm_scheduler_requests_ended", "Requests that ended", labels=["outcome"])
        for outcome, count in (
            ("completed", totals.completed),
            ("failed", totals.failed),
            ("cancelled", totals.cancelled),
        ):
            ended.add_metric([outcome], count)
        yield ended
        tokens = "Output tokens of completed requests"
        yield CounterMetricFamily("sagellm_scheduler_output_tokens", tokens, value=totals.output_tokens)
        good = "Completed requests that met every SLO they stated"
        yield CounterMetricFamily("sagellm_scheduler_good_requests", good, value=totals.good)
        cost = "Cost of ended requests, in the currency of the instances' prices"
        yield CounterMetricFamily("sagellm_scheduler_cost", cost, value=totals.cost)
        for name, what, counts in (
            ("slo_requests", "Ended requests that stated an SLO", totals.slo_requests),
            ("slo_violations", "Of these, requests that failed or missed an SLO", totals.slo_violations),
        ):
            family = CounterMetricFamily(f"sagellm_scheduler_{name}", what, labels=["priority"])
            for priority, count in counts.items():
                family.add_metric([priority.name.lower()], count)
            yield family
        error = GaugeMetricFamily(
            "sagellm_scheduler_prediction_error_ratio",
            "Mean error of the latest predictions, as a share of what came true",
            labels=["quantity"],
        )
        for quantity, ratio in self._metrics.prediction_error().items():
            error.add_metric([quantity], ratio)
        yield error
        gap = "Largest difference in weighted tokens served between two users who wait"
        fairness = self._metrics.requests.fairness
        yield GaugeMetricFamily("sagellm_scheduler_fairness_gap_tokens", gap, value=fairness.gap_tokens)
        busy = "Share of time that instances were busy, on average"
        utilization = self._metrics.utilization
        yield GaugeMetricFamily("sagellm_scheduler_instance_utilization_ratio", busy, value=utilization.average)
        if utilization.gpus is not None:
            kernels = "Share of time in which the instances' GPUs ran kernels, on average, as their drivers tell"
            yield GaugeMetricFamily("sagellm_scheduler_gpu_utilization_ratio", kernels, value=utilization.gpus)
        policy = self._metrics.policy
        if policy is not None:
            info = GaugeMetricFamily(
                "sagellm_scheduler_policy", "1 for the policy that orders the queue", labels=["policy", "in_use"]
            )
            info.add_metric([policy.name, policy.active], 1)
            yield info
            switches = "Times that the adaptive policy chose another one"
            yield CounterMetricFamily("sagellm_scheduler_policy_switches", switches, value=policy.switches_total)
