"""`adaptive` against every fixed policy, over four mixes, each judged as a user of such traffic would.

- priorities: more than one instance can do, of requests that differ in nothing but priority. Judged by the share
  of CRITICAL and HIGH requests whose first token comes within a second; LOW must not starve.
- deadlines: chat and 10% long prompts. Judged by the highest rate at which 90% are within their SLOs.
- batch: 30% may wait two minutes, instances at two prices. Judged by the cost of a request within its SLOs, where
  at least as many are as under fifo.
- together: priorities, deadlines, batch, greedy users and two prices, at a rate that is far too much for fifo.
  Judged by attainment.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import ALL_POLICIES, Run, classes_met, kept, markdown, mean, share_within

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import load_cost_model
from sagellm.simulator.goodput import find_goodput
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import parse_mix, read_trace

NO_SLO = "ttft_slo_ms=600000:tbt_slo_ms=600000"
PRIORITIES = ("critical:0.1:-:-:priority=CRITICAL", "high:0.2:-:-:priority=HIGH", "low:0.2:-:-:priority=LOW",
              "background:0.1:-:-:priority=BACKGROUND")  # fmt: skip
LONG = "long:0.1:3000:200"
BATCH = f"batch:0.3:-:-:priority=LOW:slo_deadline_ms=120000:{NO_SLO}"
TOGETHER = ("critical:0.05:-:-:priority=CRITICAL", LONG, BATCH.replace("0.3", "0.2"), "greedy:0.2:-:-:users=2")
SLOS = {"ttft_slo_ms": 1000.0, "tbt_slo_ms": 100.0}


def _priorities(trace: Path, policy: str, seed: int) -> Run:
    scenario = _scenario(trace, 900, policy, 1, PRIORITIES)
    result, outcomes = scenario.run(seed, 4.0)
    return {**kept(result), "score": share_within(outcomes, 1, 1000)}


def _deadlines(trace: Path, policy: str, seed: int) -> Run:
    scenario = _scenario(trace, 300, policy, 1, [LONG], **SLOS)
    found = find_goodput(scenario.at_rate(seed, 0.9), seed, 0.9, 2.0)
    assert found.result is not None, "a low rate passes"
    return {**kept(found.result), "score": found.goodput_rps}


def _batch(trace: Path, policy: str, seed: int) -> Run:
    run = kept(_scenario(trace, 600, policy, 4, [BATCH], prices=(4.0, 1.0), **SLOS).run(seed, 8.0)[0])
    return {**run, "score": run["cost_per_met"]}


def _together(trace: Path, policy: str, seed: int) -> Run:
    scenario = _scenario(trace, 1200, policy, 4, TOGETHER, prices=(4.0, 1.0), users=18, **SLOS)
    run = kept(scenario.run(seed, 10.0)[0])
    return {**run, "score": run["classes"]["all"]["attainment"]}


MIXES: dict[str, Callable[[Path, str, int], Run]] = {
    "priorities": _priorities,
    "deadlines": _deadlines,
    "batch": _batch,
    "together": _together,
}
LOWER_IS_BETTER = ("batch",)


def _scenario(
    trace: Path, duration_s: float, policy: str, instances: int, mixes: Any, *, prices: Any = (0.0,), **more: Any
) -> Scenario:
    plan = ClusterPlan(cost=load_cost_model("h100-llama31-8b"), instances=instances, prices_per_hour=prices)
    return Scenario(
        requests=read_trace(trace, duration_s),
        plan=plan,
        policy=policy,
        mixes=[parse_mix(text) for text in mixes],
        **more,
    )


def run(trace: Path, seeds: range) -> dict[str, Any]:
    """Every mix under every policy."""
    return {
        mix: {policy: [measure(trace, policy, seed) for seed in seeds] for policy in ALL_POLICIES}
        for mix, measure in MIXES.items()
    }


def tables(found: dict[str, Any]) -> str:
    """One table a mix: the score, beside the best fixed policy's."""
    return "\n\n".join(f"{mix}\n\n{_table(mix, runs)}" for mix, runs in found.items())


def _table(mix: str, found: dict[str, list[Run]]) -> str:
    scores = {policy: mean(runs, lambda run: run["score"]) for policy, runs in found.items()}
    # What serves fewer within their SLOs than fifo does is no bargain.
    least = mean(found["fifo"], lambda run: run["classes"]["all"]["attainment"]) - 0.001
    fixed = {
        policy: score
        for policy, score in scores.items()
        if policy != "adaptive" and mean(found[policy], lambda run: run["classes"]["all"]["attainment"]) >= least
    }
    best = min(fixed.values()) if mix in LOWER_IS_BETTER else max(fixed.values())
    rows = []
    for policy, runs in found.items():
        each = [run["score"] for run in runs]
        longest = max(
            (
                run["classes"][kind]["wait_max_ms"]
                for run in runs
                for kind in ("low", "background")
                if kind in run["classes"]
            ),
            default=0.0,
        )
        rows.append(
            [
                policy,
                f"{scores[policy]:.4g}",
                f"{min(each):.4g} to {max(each):.4g}",
                f"{scores[policy] / best - 1:+.1%}",
                classes_met(runs) if not longest else f"longest wait of LOW, BACKGROUND: {longest / 1000:.0f} s",
            ]
        )
    return markdown(["policy", "score", "least to greatest", "to the best fixed one", "met, by class"], rows)
