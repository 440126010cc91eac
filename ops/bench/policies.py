"""Rate at 90% attainment of every policy on one trace, in the simulator: `python ops/bench/policies.py TRACE`.

A tenth of the requests are long prompts. Prints Markdown: means over the seeds with the least and the greatest,
and how many times the rate of each other policy slo_aware reaches, seed by seed. `--json FILE` keeps everything.
`--setup="--max-batched-tokens 512"`, which may be repeated, runs all under these options of `sagellm simulate`.
"""

import argparse
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

POLICIES = ("fifo", "edf", "sjf", "priority", "slo_aware", "adaptive", "fair", "cost_optimized")
OURS = "slo_aware"

Found = dict[tuple[str, str], list[dict[str, Any]]]
"""What `sagellm simulate --json` said for each seed, by setup and policy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--mix", action="append", default=None)
    parser.add_argument("--setup", action="append", default=None)
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
    rows = [(setup, policy) for setup in options.setup or [""] for policy in options.policies.split(",")]
    runs = [(setup, policy, seed) for setup, policy in rows for seed in range(options.seeds)]

    def search(run: tuple[str, str, int]) -> dict[str, Any]:
        setup, policy, seed = run
        arguments = [*command, *shlex.split(setup), "--policy", policy, "--seed", str(seed)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        print(f"{policy} {setup} seed {seed}: {found['goodput_rps']:.2f} requests/s", file=sys.stderr)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(runs, pool.map(search, runs), strict=True))
    if options.json is not None:
        options.json.write_text("[\n" + ",\n".join(json.dumps(_rounded(results[run])) for run in runs) + "\n]\n")
    found = {row: [results[*row, seed] for seed in range(options.seeds)] for row in rows}
    print(f"{table(found)}\n\n{ratios(found)}")


def table(found: Found) -> str:
    """Means over the seeds, with the least and the greatest rate, and attainment of every class at that rate."""
    kinds = sorted({kind for results in found.values() for result in results for kind in result["attainment"]})
    lines = [
        "| policy | requests/s | least to greatest | "
        + " | ".join(f"{kind} met (least)" for kind in kinds)
        + " | relegated |",
        "|---" * (4 + len(kinds)) + "|",
    ]
    for row, results in found.items():
        rates = [result["goodput_rps"] for result in results]
        shares = [_mean_and_least([r["attainment"].get(kind, 0.0) for r in results]) for kind in kinds]
        lines.append(
            f"| {_name(row)} | {sum(rates) / len(rates):.2f} | {min(rates):.2f} to {max(rates):.2f} | "
            + " | ".join(shares)
            + f" | {_relegated(results)} |"
        )
    return "\n".join(lines)


def ratios(found: Found) -> str:
    """How many times the rate of each other policy ours reaches under the same setup, for every seed."""
    lines = [f"{OURS} against, seed by seed:"]
    for (setup, policy), results in found.items():
        ours = found.get((setup, OURS))
        if ours is None or policy == OURS:
            continue
        each = [
            f"{mine['goodput_rps'] / theirs['goodput_rps']:.2f}" if theirs["goodput_rps"] else "inf"
            for mine, theirs in zip(ours, results, strict=True)
        ]
        lines.append(f"- {_name((setup, policy))}: {', '.join(each)}")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    """To four digits after the point: more would be noise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _name(row: tuple[str, str]) -> str:
    setup, policy = row
    return f"{policy} {setup}".strip()


def _mean_and_least(shares: list[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.1f}% ({100 * min(shares):.1f}%)"


def _relegated(results: list[dict[str, Any]]) -> str:
    waits = [
        search["result"]["classes"]["all"]["wait_ms_by_group"].get("late")
        for result in results
        for search in result["searches"]
        if search["result"] is not None
    ]
    late = [wait for wait in waits if wait]
    if not late:
        return "none"
    longest_s = max(wait["max"] for wait in late) / 1000
    return f"{sum(wait['count'] for wait in late)}, wait at most {longest_s:.0f} s"


if __name__ == "__main__":
    main()
