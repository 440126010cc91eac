"""Outcomes summed up: attainment, latencies and rates, for every class and for all."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from .outcome import Outcome

ALL = "all"


class Spread(msgspec.Struct, frozen=True):
    """Mean and percentiles; all 0 where there is nothing."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class. Attainments are shares of all its requests: what did not finish has met no SLO.

    Times are of the requests that finished. `by_group` counts requests by the policy's group in which they waited
    when they were dispatched, where a policy has several.
    """

    requests: int
    finished: int
    rejected: int
    attainment: float
    ttft_attainment: float
    tbt_attainment: float
    deadline_attainment: float
    mean_tpot_attainment: float
    wait_ms: Spread
    ttft_ms: Spread
    tpot_ms: Spread
    gap_p99_ms: Spread
    latency_ms: Spread
    input_tokens: int
    output_tokens: int
    prefix_hit_rate: float
    preemptions: int
    by_group: dict[str, int]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Rates are over the time from the first arrival to the last ending."""

    seed: int
    offered_rps: float
    duration_s: float
    finished_per_s: float
    met_per_s: float
    output_tokens_per_s: float
    classes: dict[str, ClassResult]

    @property
    def overall(self) -> ClassResult:
        """All classes together."""
        return self.classes[ALL]


def summarize(outcomes: Sequence[Outcome], seed: int, rate_scale: float, duration_s: float) -> RunResult:
    """The result of one run; `duration_s` is when its last request ended."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.request.arrival_s)
    kinds = sorted({outcome.request.kind for outcome in ordered})
    classes = {kind: _class_result([o for o in ordered if o.request.kind == kind]) for kind in kinds}
    overall = _class_result(ordered)
    span_s = ordered[-1].request.arrival_s / rate_scale if ordered else 0.0
    return RunResult(
        seed=seed,
        offered_rps=_rate(len(ordered), span_s),
        duration_s=duration_s,
        finished_per_s=_rate(overall.finished, duration_s),
        met_per_s=_rate(sum(o.met for o in ordered), duration_s),
        output_tokens_per_s=_rate(overall.output_tokens, duration_s),
        classes={**classes, ALL: overall},
    )


def _class_result(outcomes: Sequence[Outcome]) -> ClassResult:
    finished = [outcome for outcome in outcomes if outcome.status == "finished"]
    input_tokens = sum(outcome.request.input_tokens for outcome in finished)
    groups = [outcome.group for outcome in finished]
    return ClassResult(
        requests=len(outcomes),
        finished=len(finished),
        rejected=sum(outcome.status == "rejected" for outcome in outcomes),
        attainment=_share(outcomes, lambda o: o.met),
        ttft_attainment=_share(outcomes, lambda o: o.ttft_met),
        tbt_attainment=_share(outcomes, lambda o: o.tbt_met),
        deadline_attainment=_share(outcomes, lambda o: o.deadline_met),
        mean_tpot_attainment=_share(outcomes, lambda o: o.mean_tpot_met),
        wait_ms=spread(outcome.wait_ms for outcome in finished),
        ttft_ms=spread(outcome.ttft_ms or 0.0 for outcome in finished),
        tpot_ms=spread(outcome.tpot_ms for outcome in finished if outcome.output_tokens > 1),
        gap_p99_ms=spread(outcome.gap_p99_ms for outcome in finished if outcome.output_tokens > 1),
        latency_ms=spread(outcome.latency_ms for outcome in finished),
        input_tokens=input_tokens,
        output_tokens=sum(outcome.output_tokens for outcome in finished),
        prefix_hit_rate=sum(o.cached_tokens for o in finished) / input_tokens if input_tokens else 0.0,
        preemptions=sum(outcome.preemptions for outcome in finished),
        by_group={name: groups.count(name) for name in sorted(set(groups))} if len(set(groups)) < 10 else {},
    )


def spread(values: Iterable[float]) -> Spread:
    """Of any numbers; percentiles by linear interpolation."""
    found = np.fromiter(values, dtype=np.float64)
    if not len(found):
        return Spread()
    p50, p90, p95, p99 = map(float, np.percentile(found, (50, 90, 95, 99)))
    return Spread(float(found.mean()), p50, p90, p95, p99, float(found.max()))


def _share(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> float:
    return sum(map(holds, outcomes)) / len(outcomes) if outcomes else 1.0


def _rate(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0
