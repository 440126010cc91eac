"""One run of the simulator, in the figures that are kept of it, and small sums over runs."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from sagellm.simulator.outcome import Outcome
from sagellm.simulator.results import RunResult

Run = dict[str, Any]

ALL_POLICIES = ("fifo", "priority", "slo_aware", "cost_optimized", "fair", "edf", "sjf", "adaptive")


def kept(result: RunResult) -> Run:
    """What the raw file has of a run: rates, cost, fairness, and every class."""
    run: Run = {
        "seed": result.seed,
        "offered_rps": result.offered_rps,
        "finished_per_s": result.finished_per_s,
        "output_tokens_per_s": result.output_tokens_per_s,
        "cost": result.cost,
        "cost_per_met": result.cost_per_met,
        "over_budget": result.over_budget,
        "fairness_gap_tokens": result.fairness_gap_tokens,
        "fairness_bound_tokens": result.fairness_bound_tokens,
        "prefix_hit_rate": result.overall.prefix_hit_rate,
        "prefix_hit_rate_infinite": result.prefix_hit_rate_infinite,
        "classes": {},
    }
    for kind, found in result.classes.items():
        run["classes"][kind] = {
            "requests": found.requests,
            "rejected": found.rejected,
            "attainment": found.attainment,
            "ttft_attainment": found.ttft_attainment,
            "tbt_attainment": found.tbt_attainment,
            "ttft_ms": {"mean": found.ttft_ms.mean, "p50": found.ttft_ms.p50, "p99": found.ttft_ms.p99},
            "gap_p99_ms": {
                "mean": found.gap_p99_ms.mean,
                "p50": found.gap_p99_ms.p50,
                "p99": found.gap_p99_ms.p99,
            },
            "wait_max_ms": found.wait_ms.max,
        }
    return run


def mean(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    """Of a figure over runs."""
    return fmean(map(figure, runs))


def attainment(kind: str = "all") -> Callable[[Run], float]:
    """The figure of a class."""
    return lambda run: float(run["classes"][kind]["attainment"])


def share_within(outcomes: Sequence[Outcome], priority: int, ttft_ms: float) -> float:
    """Of the requests of that priority or a higher one, those whose first token came within `ttft_ms`."""
    asked = [outcome for outcome in outcomes if outcome.request.priority <= priority]
    return fmean(outcome.ttft_ms is not None and outcome.ttft_ms <= ttft_ms for outcome in asked)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def classes_met(runs: Sequence[Run]) -> str:
    """Every class and its attainment."""
    kinds: Mapping[str, Any] = runs[0]["classes"]
    return ", ".join(f"{kind} {mean(runs, attainment(kind)):.1%}" for kind in kinds if kind != "all")
