"""A Prometheus histogram for what is observed with every request or token.

Prometheus' own takes a lock and walks its buckets, 2 µs each time; here only the event loop counts.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Series:
    """The counts under one label value."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` as seen `times` times."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times


class Histogram(Collector):
    """Series of one name, by the value of `label`; without a label there is one series, `only`."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry, label: str | None = None
    ) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(float(bound) for bound in bounds)
        self._label = label
        self._series: dict[str, Series] = {}
        registry.register(self)
        if label is None:
            self.only = self.series("")

    def series(self, value: str) -> Series:
        """The series of one label value. Keep it: looking it up costs more than counting."""
        return self._series.setdefault(value, Series(self._bounds))

    def collect(self) -> Iterable[Metric]:
        """The series as Prometheus' client wants them: buckets that include the smaller ones."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for value, series in self._series.items():
            family.add_metric([value] if self._label else [], list(self._cumulated(series.counts)), series.sum)
        yield family

    def _cumulated(self, counts: list[int]) -> Iterator[tuple[str, float]]:
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
            total += count
            yield bound, total
