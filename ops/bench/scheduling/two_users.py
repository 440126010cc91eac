"""`fair`: two greedy users send half of an overload, eighteen others the rest."""

from pathlib import Path
from typing import Any

from measure import ALL_POLICIES, Run, kept, markdown, mean

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import load_cost_model
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import parse_mix, read_trace

RATE_SCALE = 5.0
DURATION_S = 400.0


def run(trace: Path, seeds: range) -> dict[str, Any]:
    """Every policy on one instance, with half as much again as it can serve."""
    requests = read_trace(trace, DURATION_S)
    plan = ClusterPlan(cost=load_cost_model("h100-llama31-8b"))
    mixes = [parse_mix("greedy:0.5:-:-:users=2")]
    return {
        policy: [
            kept(
                Scenario(requests=requests, plan=plan, policy=policy, mixes=mixes, users=18).run(seed, RATE_SCALE)[
                    0
                ]
            )
            for seed in seeds
        ]
        for policy in ALL_POLICIES
    }


def tables(found: dict[str, list[Run]]) -> str:
    """Gaps and rates beside those of fifo."""
    fifo_per_s = mean(found["fifo"], _tokens_per_s)
    rows = [
        [
            policy,
            f"{max(run['fairness_gap_tokens'] for run in runs):,.0f}",
            f"{max(run['fairness_gap_tokens'] / run['fairness_bound_tokens'] for run in runs):.1%}",
            f"{mean(runs, _tokens_per_s):,.0f} ({mean(runs, _tokens_per_s) / fifo_per_s - 1:+.1%})",
            f"{mean(runs, lambda run: run['classes']['chat']['ttft_ms']['mean']) / 1000:.1f} s",
            f"{mean(runs, lambda run: run['classes']['greedy']['ttft_ms']['mean']) / 1000:.1f} s",
        ]
        for policy, runs in found.items()
    ]
    head = [
        "policy",
        "largest gap",
        "of the bound",
        "output tokens/s",
        "mean TTFT, eighteen",
        "mean TTFT, greedy two",
    ]
    return markdown(head, rows)


def _tokens_per_s(run: Run) -> float:
    return float(run["output_tokens_per_s"])
