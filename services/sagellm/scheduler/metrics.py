"""What the scheduler counts, for Prometheus."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from sagellm.histogram import Histogram
from sagellm.scheduler.instances import Instance
from sagellm_schemas import SettingsError

WAIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class SchedulerMetrics:
    """The counters of one scheduler process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leader = self._gauge("leader", "1 while this process leads")
        self.takeovers = self._counter("takeovers", "Times this process became the leader")
        self.waiting = Gauge(
            "sagellm_scheduler_queue_length", "Waiting requests", ["model"], registry=self.registry
        )
        self.outstanding = self._gauge("outstanding_requests", "Requests that have not ended")
        self.wait = Histogram(
            "sagellm_scheduler_queue_wait_seconds",
            "From arrival to the first dispatch",
            WAIT_BUCKETS_S,
            self.registry,
        ).only
        self.dispatches = self._counter("dispatches", "Work items sent to instances")
        self.failures = self._counter("attempt_failures", "Attempts that failed")
        self.retries = self._counter("retries", "Requests to be dispatched again, for whatever reason")
        self.dead_letters = self._counter("dead_letters", "Requests and messages given up")
        self.rejected = self._counter("rejected", "Messages that could not become work")
        self.cancelled = self._counter("cancelled", "Requests cancelled while they waited")
        self.failed = self._counter("failed", "Requests ended by the scheduler with an error")
        self.instances = Gauge(
            "sagellm_scheduler_instances", "Known instances", ["model", "state"], registry=self.registry
        )
        self.fenced = self._counter("fenced_instances", "Instances found dead or hung")

    def count_instances(self, instances: list[Instance]) -> None:
        """Bring the number of instances up to date."""
        self.instances.clear()
        for instance in instances:
            self.instances.labels(instance.info.model, instance.state).inc()

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"sagellm_scheduler_{name}", what, registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"sagellm_scheduler_{name}", what, registry=self.registry)


@contextlib.contextmanager
def exposed(metrics: SchedulerMetrics, port: int | None) -> Iterator[None]:
    """Serve `metrics` over HTTP at `port`; None serves nothing."""
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, registry=metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served at port {port}: {error.strerror}; SAGELLM_METRICS_PORT"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
