"""Rate at 90% attainment of every policy on one trace, in the simulator: `python ops/bench/policies.py TRACE`.

A tenth of the requests are long prompts. Prints a Markdown table; `--json FILE` keeps everything.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

POLICIES = ("fifo", "edf", "sjf", "priority", "slo_aware", "adaptive", "fair", "cost_optimized")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--mix", action="append", default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--attainment", default="0.9")
    parser.add_argument("--duration-s", default=None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    options, further = parser.parse_known_args()
    command = [sys.executable, "-m", "sagellm", "simulate", "--trace", options.trace, "--json"]
    command += ["--ttft-slo-ms", "1000", "--tbt-slo-ms", "100", "--find-goodput", options.attainment, *further]
    for mix in options.mix or ["long:0.1:3000:200"]:
        command += ["--mix", mix]
    if options.duration_s is not None:
        command += ["--duration-s", options.duration_s]
    policies = options.policies.split(",")
    runs = [(policy, seed) for policy in policies for seed in range(options.seeds)]

    def search(run: tuple[str, int]) -> dict[str, Any]:
        policy, seed = run
        done = subprocess.run(
            [*command, "--policy", policy, "--seed", str(seed)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        print(f"{policy} seed {seed}: {found['goodput_rps']:.2f} requests/s", file=sys.stderr)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(runs, pool.map(search, runs), strict=True))
    if options.json is not None:
        options.json.write_text(json.dumps([results[run] for run in runs], indent=1))
    print(table({policy: [results[policy, seed] for seed in range(options.seeds)] for policy in policies}))


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Means over the seeds, with the least and the greatest rate, and attainment of every class at that rate."""
    kinds = sorted({kind for results in found.values() for result in results for kind in result["attainment"]})
    lines = [
        "| policy | requests/s | least to greatest | "
        + " | ".join(f"{kind} met" for kind in kinds)
        + " | relegated |",
        "|---" * (4 + len(kinds)) + "|",
    ]
    for policy, results in found.items():
        rates = [result["goodput_rps"] for result in results]
        shares = [
            f"{100 * sum(r['attainment'].get(kind, 0.0) for r in results) / len(results):.1f}%" for kind in kinds
        ]
        waits = [
            search["result"]["classes"]["all"]["wait_ms_by_group"].get("late")
            for result in results
            for search in result["searches"]
            if search["result"] is not None
        ]
        late = [wait for wait in waits if wait]
        relegated = "none"
        if late:
            longest_s = max(wait["max"] for wait in late) / 1000
            relegated = f"{sum(wait['count'] for wait in late)}, wait at most {longest_s:.1f} s"
        lines.append(
            f"| {policy} | {sum(rates) / len(rates):.2f} | {min(rates):.2f} to {max(rates):.2f} | "
            + " | ".join(shares)
            + f" | {relegated} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
