"""What the cleverest scheduling costs: `adaptive` with `prefix_aware` against `fifo` with `round_robin`, live.

    python ops/bench/scheduling_overhead.py --json docs/benchmarks/scheduling-overhead.json

Two whole pipelines with mock engines run side by side, and wrk (it must be installed) loads them in turn, so that
both have the same luck with the machine. Reported are the ratio of the median requests/s, and the CPU time that
each scheduler takes for a request, which says the same with less noise.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from http_path import check_wrk, load_with_wrk, machine
from rich.console import Console
from rich.progress import track
from rich.table import Table
from servers import sagellm_up

SETUPS = {"fifo + round_robin": ("fifo", "round_robin"), "adaptive + prefix_aware": ("adaptive", "prefix_aware")}


def main() -> None:
    """Measure, print, save."""
    arguments = _arguments()
    check_wrk()
    runs: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ready = {}
        for name, (policy, routing) in SETUPS.items():
            environment = {"SAGELLM_POLICY": policy, "SAGELLM_ROUTING": routing}
            up = ["--engine", "mock", "--workers", str(arguments.workers)]
            ready[name] = stack.enter_context(sagellm_up(arguments.model, state / policy, up, environment))
        turns = [(turn, name) for turn in range(arguments.repeat + 1) for name in SETUPS]
        for turn, name in track(turns, description="wrk", transient=True):
            found = load_with_wrk(
                ready[name], arguments.model, arguments.tokens, arguments.connections, arguments.seconds
            )
            runs.append({"setup": name, "warm_up": turn == 0, **found})
    report = {"machine": machine(), "model": arguments.model, "tokens": arguments.tokens, "runs": runs}
    report |= {"workers": arguments.workers, "summary": _summary(runs)}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    _show(report)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each set-up, and the second's rate as a share of the first's."""
    summary: dict[str, Any] = {}
    for name in SETUPS:
        counted = [run for run in runs if run["setup"] == name and not run["warm_up"]]
        cpu_us = [run["cpu_us_per_request"] for run in counted]
        summary[name] = {
            "requests_per_s": round(statistics.median(run["requests_per_s"] for run in counted), 1),
            "scheduler_us": statistics.median(us["scheduler"] for us in cpu_us),
            "all_us": statistics.median(sum(us.values()) for us in cpu_us),
        }
    plain, clever = (summary[name]["requests_per_s"] for name in SETUPS)
    return summary | {"rate_ratio": round(clever / plain, 3)}


def _show(report: dict[str, Any]) -> None:
    summary = report["summary"]
    table = Table("set-up", "requests/s", "scheduler, CPU µs per request", "all services, CPU µs per request")
    for name in SETUPS:
        found = summary[name]
        table.add_row(
            name, f"{found['requests_per_s']:.0f}", f"{found['scheduler_us']:.0f}", f"{found['all_us']:.0f}"
        )
    console = Console()
    console.print(table)
    console.print(f"ratio of the rates: {summary['rate_ratio']:.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="whose tokenizer is used")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of each request")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="workers of each pipeline")
    parser.add_argument("--seconds", type=int, default=5, help="length of each run")
    parser.add_argument("--repeat", type=int, default=7, help="counted runs of each, after one to warm up")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
