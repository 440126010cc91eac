"""`cost_optimized`: four instances, two of them at four times the price; 60% chat, 30% that may wait two minutes,
and 10% with a budget that pays for about 300 tokens of answer on a cheap instance."""

from pathlib import Path
from typing import Any

from measure import Run, attainment, classes_met, kept, markdown, mean

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import load_cost_model
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import parse_mix, read_trace

DURATION_S = 900.0
RATE_SCALES = (6.0, 9.0, 10.5)
POLICIES = ("fifo", "slo_aware", "cost_optimized", "adaptive")
MIXES = (
    "batch:0.3:-:-:priority=LOW:slo_deadline_ms=120000:ttft_slo_ms=600000:tbt_slo_ms=600000",
    "budget:0.1:-:-:cost_budget=0.00003",
)


def run(trace: Path, seeds: range) -> dict[str, Any]:
    """Every load under every policy, all with load_balanced routing."""
    requests = read_trace(trace, DURATION_S)
    plan = ClusterPlan(cost=load_cost_model("h100-llama31-8b"), instances=4, prices_per_hour=(4.0, 1.0))
    mixes = [parse_mix(text) for text in MIXES]
    return {
        str(scale): {
            policy: [
                kept(
                    Scenario(
                        requests=requests, plan=plan, policy=policy, mixes=mixes, ttft_slo_ms=1000, tbt_slo_ms=100
                    ).run(seed, scale)[0]
                )
                for seed in seeds
            ]
            for policy in POLICIES
        }
        for scale in RATE_SCALES
    }


def tables(found: dict[str, dict[str, list[Run]]]) -> str:
    """Costs beside those of fifo at the same load."""
    rows = []
    for policies in found.values():
        per_met = mean(policies["fifo"], lambda run: run["cost_per_met"])
        cost = mean(policies["fifo"], lambda run: run["cost"])
        for policy, runs in policies.items():
            rows.append(
                [
                    f"{runs[0]['offered_rps']:.0f}",
                    policy,
                    f"{1e6 * mean(runs, lambda run: run['cost_per_met']):.1f}",
                    f"{mean(runs, lambda run: run['cost_per_met']) / per_met - 1:+.0%}",
                    f"{mean(runs, lambda run: run['cost']) / cost - 1:+.0%}",
                    f"{mean(runs, attainment()):.1%}",
                    classes_met(runs),
                    f"{mean(runs, lambda run: run['classes']['chat']['ttft_ms']['mean']):.0f} ms",
                    str(sum(run["over_budget"] for run in runs)),
                ]
            )
    head = ["requests/s", "policy", "cost per million within SLOs", "to fifo", "whole cost to fifo"]
    head += ["met", "by class", "mean TTFT, chat", "over budget"]
    return markdown(head, rows)
