"""Outcomes summed up: attainment, latencies and rates, for every class and for all."""

from collections.abc import Callable, Iterable, Sequence
from math import inf

import msgspec
import numpy as np

from .fairness import bound_tokens
from .outcome import Outcome
from .simulation import Simulation
from .traces import shareable

ALL = "all"
MAX_GROUPS = 10


class Spread(msgspec.Struct, frozen=True):
    """Mean and percentiles; all 0 where there is nothing."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class. Attainments are shares of all its requests: what did not finish has met no SLO.

    Times are of the requests that finished. `wait_ms_by_group` tells waits by the policy's group in which requests
    were when they were dispatched ("late" are those that slo_aware relegated), where a policy has a few.
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
    wait_ms_by_group: dict[str, Spread]


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Rates are over the time from the first arrival to the last ending.

    `cost` is what the instances cost while they were busy, `cost_reserved` what they cost all along, in the
    currency of their prices; `charged` is what the requests were told they cost, `over_budget` how many of
    them were told more than their budget. The fairness gap is in weighted tokens (`fairness.ServiceGap`), its
    bound that of virtual token counters; both are None where there are no users to compare.
    `prefix_hit_rate_infinite` is what one cache that all instances shared and that forgot nothing would have.
    """

    seed: int
    offered_rps: float
    duration_s: float
    finished_per_s: float
    met_per_s: float
    output_tokens_per_s: float
    cost: float
    cost_reserved: float
    charged: float
    over_budget: int
    cost_per_met: float | None
    fairness_gap_tokens: float | None
    fairness_bound_tokens: float | None
    prefix_hit_rate_infinite: float
    classes: dict[str, ClassResult]

    @property
    def overall(self) -> ClassResult:
        """All classes together."""
        return self.classes[ALL]


def summarize(simulation: Simulation, seed: int, rate_scale: float) -> RunResult:
    """The result of a run that is over."""
    duration_s = simulation.now_s
    ordered = sorted(simulation.outcomes, key=lambda outcome: outcome.request.arrival_s)
    kinds = sorted({outcome.request.kind for outcome in ordered})
    classes = {kind: _class_result([o for o in ordered if o.request.kind == kind]) for kind in kinds}
    overall = _class_result(ordered)
    span_s = ordered[-1].request.arrival_s / rate_scale if ordered else 0.0
    met = sum(o.met for o in ordered)
    cluster, plan = simulation.cluster, simulation.plan
    cost = sum(cluster.price_per_s(id_) * engine.busy_s for id_, engine in cluster.engines.items())
    measured = simulation.gap.measures
    longest = max((outcome.request.input_tokens for outcome in ordered), default=0)
    batch_tokens = plan.num_blocks * plan.block_size * len(cluster.engines)
    return RunResult(
        seed=seed,
        offered_rps=_rate(len(ordered), span_s),
        duration_s=duration_s,
        finished_per_s=_rate(overall.finished, duration_s),
        met_per_s=_rate(met, duration_s),
        output_tokens_per_s=_rate(overall.output_tokens, duration_s),
        cost=cost,
        cost_reserved=sum(map(cluster.price_per_s, cluster.engines)) * duration_s,
        charged=sum(outcome.charged for outcome in ordered),
        over_budget=sum(o.charged > (o.request.cost_budget or inf) for o in ordered),
        cost_per_met=cost / met if met else None,
        fairness_gap_tokens=simulation.gap.gap_tokens if measured else None,
        fairness_bound_tokens=bound_tokens(longest, batch_tokens) if measured else None,
        prefix_hit_rate_infinite=shareable((outcome.request for outcome in ordered), plan.block_size),
        classes={**classes, ALL: overall},
    )


def _class_result(outcomes: Sequence[Outcome]) -> ClassResult:
    finished = [outcome for outcome in outcomes if outcome.status == "finished"]
    input_tokens = sum(outcome.request.input_tokens for outcome in finished)
    groups = sorted({outcome.group for outcome in finished})
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
        wait_ms_by_group={
            name: spread(outcome.wait_ms for outcome in finished if outcome.group == name)
            for name in groups
            if 1 < len(groups) <= MAX_GROUPS
        },
    )


def spread(values: Iterable[float]) -> Spread:
    """Of any numbers; percentiles by linear interpolation."""
    found = np.fromiter(values, dtype=np.float64)
    if not len(found):
        return Spread()
    p50, p90, p95, p99 = map(float, np.percentile(found, (50, 90, 95, 99)))
    return Spread(len(found), float(found.mean()), p50, p90, p95, p99, float(found.max()))


def _share(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> float:
    return sum(map(holds, outcomes)) / len(outcomes) if outcomes else 1.0


def _rate(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0
