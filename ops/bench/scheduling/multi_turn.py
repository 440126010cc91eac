"""`prefix_aware`: multi-turn chat on eight instances, every routing strategy."""

from pathlib import Path
from typing import Any

from conversations import conversations
from measure import Run, kept, markdown, mean

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import load_cost_model
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import read_trace

CHATS_PER_S = (8.0,)
DURATION_S = 240.0
ROUTINGS = ("round_robin", "load_balanced", "locality", "affinity", "prefix_aware")


def run(trace: Path, seeds: range) -> dict[str, Any]:
    """Every rate with every strategy; the policy is fifo."""
    lengths = read_trace(trace)
    plan = ClusterPlan(cost=load_cost_model("h100-llama31-8b"), instances=8)
    found: dict[str, Any] = {}
    for rate in CHATS_PER_S:
        chats = {seed: conversations(lengths, seed, rate, DURATION_S) for seed in seeds}
        found[str(rate)] = {
            routing: [
                kept(Scenario(requests=requests, plan=plan, routing=routing).run(seed, 1.0)[0])
                for seed, requests in chats.items()
            ]
            for routing in ROUTINGS
        }
    return found


def tables(found: dict[str, dict[str, list[Run]]]) -> str:
    """Hit rates beside that of one infinite cache, TTFT beside that of round_robin."""
    rows = []
    for routings in found.values():
        baseline_ms = mean(routings["round_robin"], _ttft_ms)
        for routing, runs in routings.items():
            rows.append(
                [
                    f"{mean(runs, lambda run: run['offered_rps']):.0f}",
                    routing,
                    f"{mean(runs, lambda run: run['prefix_hit_rate']):.1%}",
                    f"{mean(runs, lambda run: run['prefix_hit_rate'] / run['prefix_hit_rate_infinite']):.1%}",
                    f"{mean(runs, _ttft_ms):.1f} ms",
                    f"{mean(runs, _ttft_ms) / baseline_ms - 1:+.0%}",
                    f"{mean(runs, lambda run: run['classes']['all']['ttft_ms']['p99']):.0f} ms",
                ]
            )
    head = [
        "requests/s",
        "routing",
        "prefix hit rate",
        "of one infinite cache",
        "mean TTFT",
        "to round_robin",
        "p99 TTFT",
    ]
    return markdown(head, rows)


def _ttft_ms(run: Run) -> float:
    return float(run["classes"]["all"]["ttft_ms"]["mean"])
