"""What the ingress measures, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from sagellm.histogram import Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class ModelMetrics:
    """The series of one model, bound once, since a lookup by label costs more than counting."""

    __slots__ = ("cached_tokens", "duration", "in_flight", "itl", "output_tokens", "prompt_tokens", "ttft")

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.in_flight = metrics.in_flight.labels(model)
        self.ttft = metrics.ttft.series(model)
        self.itl = metrics.itl.series(model)
        self.duration = metrics.duration.series(model)
        self.prompt_tokens = metrics.prompt_tokens.labels(model)
        self.cached_tokens = metrics.cached_tokens.labels(model)
        self.output_tokens = metrics.output_tokens.labels(model)


class Metrics:
    """All series of one ingress, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sagellm_ingress_requests", "Requests by outcome", ["endpoint", "status"], registry=self.registry
        )
        self.in_flight = Gauge(
            "sagellm_ingress_in_flight", "Requests being answered", ["model"], registry=self.registry
        )
        self.ttft = self._histogram("ttft", "Time from the request to its first token")
        self.itl = self._histogram("itl", "Time between tokens as sent to the client")
        self.duration = self._histogram("duration", "Time from the request to the end of its answer")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self.cached_tokens = self._counter("cached_tokens", "Prompt tokens found in a prefix cache")
        self.output_tokens = self._counter("output_tokens", "Output tokens of finished requests")
        self._models: dict[str, ModelMetrics] = {}
        self._outcomes: dict[tuple[str, int], Counter] = {}

    def count(self, endpoint: str, status: int) -> None:
        """Count one request that was answered with `status`."""
        found = self._outcomes.get((endpoint, status))
        if found is None:
            found = self._outcomes[endpoint, status] = self._requests.labels(endpoint, status)
        found.inc()

    def model(self, name: str) -> ModelMetrics:
        """The series of a known model."""
        found = self._models.get(name)
        if found is None:
            found = self._models[name] = ModelMetrics(self, name)
        return found

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"sagellm_ingress_{name}_seconds", text, _SECONDS, self.registry, label="model")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"sagellm_ingress_{name}", text, ["model"], registry=self.registry)
