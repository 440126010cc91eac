"""Prefill and decode apart against the same four instances all general, under bursts of long prompts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bursts import with_bursts
from measure import Run, kept, markdown, mean

from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import load_cost_model
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import read_trace

DURATION_S = 600.0
RATE_SCALES = (4.0, 8.0)
ROLES = {"4 general": (4, 0, 0), "2 prefill, 2 decode": (0, 2, 2)}


def run(trace: Path, seeds: range) -> dict[str, Any]:
    """Every load with every division of four instances: unpaced, paced by a TBT of 100 ms, slower KV transfers."""
    cost = load_cost_model("h100-llama31-8b")
    base = read_trace(trace, DURATION_S)
    ways = [("fifo", 50e9), ("fifo", 10e9), ("slo_aware", 50e9)]
    found: dict[str, Any] = {}
    for scale in RATE_SCALES:
        arrivals = [replace(request, arrival_s=request.arrival_s / scale) for request in base]
        bursts = {seed: with_bursts(arrivals, seed) for seed in seeds}
        for name, (general, prefill, decode) in ROLES.items():
            for policy, bytes_per_s in ways[::2] if general else ways:
                plan = ClusterPlan(
                    cost=cost, instances=general, prefill=prefill, decode=decode, transfer_bytes_per_s=bytes_per_s
                )
                scenarios = {
                    seed: Scenario(requests=requests, plan=plan, policy=policy, ttft_slo_ms=1000, tbt_slo_ms=100)
                    for seed, requests in bursts.items()
                }
                how = "" if general else f", {bytes_per_s / 1e9:.0f} GB/s"
                found[f"{scale}/{policy}/{name}{how}"] = [
                    kept(scenario.run(seed, 1.0)[0]) for seed, scenario in scenarios.items()
                ]
    return found


def tables(found: dict[str, list[Run]]) -> str:
    """Gaps beside those of the general instances at the same load, under the same policy."""
    rows = []
    for key, runs in found.items():
        scale, policy, name = key.split("/", 2)
        general_ms = mean(found[f"{scale}/{policy}/4 general"], _gap_ms)
        rows.append(
            [
                f"{mean(runs, lambda run: run['offered_rps']):.0f}",
                policy,
                name,
                f"{mean(runs, _gap_ms):.0f} ms",
                f"{mean(runs, _gap_ms) / general_ms - 1:+.0%}",
                f"{mean(runs, lambda run: run['classes']['all']['gap_p99_ms']['mean']):.0f} ms",
                f"{mean(runs, lambda run: run['classes']['all']['ttft_ms']['mean']):.0f} ms",
                f"{mean(runs, lambda run: run['classes']['all']['ttft_ms']['p99']):.0f} ms",
                f"{mean(runs, lambda run: run['output_tokens_per_s']):,.0f}",
            ]
        )
    head = ["requests/s", "policy", "instances", "p99 of p99 TBT", "to general", "mean of p99 TBT"]
    head += ["mean TTFT", "p99 TTFT", "output tokens/s"]
    return markdown(head, rows)


def _gap_ms(run: Run) -> float:
    return float(run["classes"]["all"]["gap_p99_ms"]["p99"])
