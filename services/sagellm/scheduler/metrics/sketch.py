"""Quantiles of a stream in bounded memory, at the cost of one logarithm for each value.

Values are counted in buckets whose bounds grow geometrically, so a quantile is right within a fixed relative error
(the idea of DDSketch: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch", VLDB 2019).
"""

from collections.abc import Iterable
from math import ceil, log

from sagellm_schemas import Quantiles

RELATIVE_ERROR = 0.01
SMALLEST_MS = 0.001

_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / log(_GAMMA)
_MIDDLE = 2 / (1 + _GAMMA)


class Sketch:
    """Counts of milliseconds by magnitude. Values below a microsecond count as one."""

    __slots__ = ("_buckets", "count", "sum_ms")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.sum_ms = 0.0

    def add(self, value_ms: float) -> None:
        """Count one value."""
        bucket = ceil(log(value_ms) * _PER_LOG) if value_ms > SMALLEST_MS else ceil(log(SMALLEST_MS) * _PER_LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_ms += value_ms

    def merge(self, other: "Sketch") -> None:
        """Add all that `other` has counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_ms += other.sum_ms

    def quantile_ms(self, share: float) -> float:
        """The smallest value that at least `share` of the values do not exceed; 0 where there are none."""
        wanted, seen = max(1, ceil(share * self.count)), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return _MIDDLE * _GAMMA**bucket
        return 0.0

    def summary(self) -> Quantiles:
        """Mean and the usual quantiles."""
        if not self.count:
            return Quantiles()
        return Quantiles(
            count=self.count,
            avg_ms=self.sum_ms / self.count,
            p50_ms=self.quantile_ms(0.50),
            p95_ms=self.quantile_ms(0.95),
            p99_ms=self.quantile_ms(0.99),
        )


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """One sketch of all the values."""
    total = Sketch()
    for sketch in sketches:
        total.merge(sketch)
    return total
