"""From samples to the numbers that people compare."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from .sample import Sample


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """p50, p90 and p99; zeros of nothing."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run, or the medians of several. Rates count finished requests only, over `duration_s`."""

    requests: int
    errors: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    itl_ms: Percentiles
    end_to_end_ms: Percentiles
    error_messages: dict[str, int] = msgspec.field(default_factory=dict)


def summarize(samples: Sequence[Sample], duration_s: float) -> Summary:
    """The numbers of one run of `duration_s`."""
    good = [s for s in samples if s.error is None]
    return Summary(
        requests=len(good),
        errors=len(samples) - len(good),
        duration_s=duration_s,
        requests_per_s=len(good) / duration_s,
        output_tokens_per_s=sum(s.output_tokens for s in good) / duration_s,
        ttft_ms=percentiles([s.ttft_ms for s in good]),
        tpot_ms=percentiles([s.tpot_ms for s in good if s.output_tokens > 1]),
        itl_ms=percentiles([gap for s in good for gap in s.itl_ms]),
        end_to_end_ms=percentiles([s.end_to_end_ms for s in good]),
        error_messages=dict(Counter(s.error for s in samples if s.error is not None)),
    )


def percentiles(values: Sequence[float]) -> Percentiles:
    """Nearest-rank percentiles."""
    if not values:
        return Percentiles()
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[max(0, -(-round(share * 100) * len(ordered) // 100) - 1)]

    return Percentiles(p50=rank(0.50), p90=rank(0.90), p99=rank(0.99))


def medians(runs: Sequence[Summary]) -> Summary:
    """Each number's median over `runs`; errors are added up."""

    def of(value: Callable[[Summary], float]) -> float:
        return statistics.median(value(run) for run in runs)

    def each(value: Callable[[Summary], Percentiles]) -> Percentiles:
        return Percentiles(
            p50=of(lambda r: value(r).p50), p90=of(lambda r: value(r).p90), p99=of(lambda r: value(r).p99)
        )

    messages: Counter[str] = Counter()
    for run in runs:
        messages.update(run.error_messages)
    return Summary(
        requests=sum(run.requests for run in runs),
        errors=sum(run.errors for run in runs),
        duration_s=of(lambda r: r.duration_s),
        requests_per_s=of(lambda r: r.requests_per_s),
        output_tokens_per_s=of(lambda r: r.output_tokens_per_s),
        ttft_ms=each(lambda r: r.ttft_ms),
        tpot_ms=each(lambda r: r.tpot_ms),
        itl_ms=each(lambda r: r.itl_ms),
        end_to_end_ms=each(lambda r: r.end_to_end_ms),
        error_messages=dict(messages),
    )
