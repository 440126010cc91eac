"""Results for people, as tables, and for programs, as one object."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from .goodput import Goodput
from .results import ALL, RunResult, Spread

COLUMNS = (
    "class",
    "requests",
    "met",
    "TTFT met",
    "TBT met",
    "rejected",
    "TTFT ms p50/p90/p99",
    "TPOT ms p50/p90/p99",
    "wait ms p50/p99/max",
)


def run_document(setup: Mapping[str, Any], results: Sequence[RunResult]) -> dict[str, Any]:
    """One object: the set-up, each seed's run, and attainment by class over all of them."""
    return {**setup, "attainment": attainment(results), "runs": msgspec.to_builtins(results)}


def goodput_document(setup: Mapping[str, Any], wanted: float, found: Sequence[Goodput]) -> dict[str, Any]:
    """One object: `goodput_rps` is the mean over the seeds, `attainment` that at each seed's own best rate."""
    return {
        **setup,
        "find_goodput": wanted,
        "goodput_rps": sum(f.goodput_rps for f in found) / len(found),
        "goodput_rps_by_seed": {str(f.seed): f.goodput_rps for f in found},
        "attainment": attainment([f.result for f in found if f.result is not None]),
        "searches": msgspec.to_builtins(found),
    }


def attainment(results: Sequence[RunResult]) -> dict[str, float]:
    """By class and for all: the mean over the runs that have the class."""
    kinds = sorted({kind for result in results for kind in result.classes})
    found = {kind: [r.classes[kind].attainment for r in results if kind in r.classes] for kind in kinds}
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def show_run(result: RunResult, console: Console) -> None:
    """Print one run."""
    table = Table(title=f"seed {result.seed}: {result.offered_rps:.2f} requests/s offered", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "class" else "right")
    for kind, found in sorted(result.classes.items(), key=lambda item: (item[0] == ALL, item[0])):
        table.add_row(
            kind,
            str(found.requests),
            f"{found.attainment:.1%}",
            f"{found.ttft_attainment:.1%}",
            f"{found.tbt_attainment:.1%}",
            str(found.rejected),
            _three(found.ttft_ms, "p50", "p90", "p99"),
            _three(found.tpot_ms, "p50", "p90", "p99"),
            _three(found.wait_ms, "p50", "p99", "max"),
        )
    console.print(table)
    console.print(
        f"{result.duration_s:.0f} s; {result.finished_per_s:.2f} requests/s finished, {result.met_per_s:.2f} "
        f"within their SLOs; {result.output_tokens_per_s:.0f} output tokens/s; "
        f"prefix hit rate {result.overall.prefix_hit_rate:.1%} "
        f"(one cache for all that forgets nothing: {result.prefix_hit_rate_infinite:.1%})"
    )
    for group, wait in result.overall.wait_ms_by_group.items():
        console.print(
            f"waited {group}: {wait.count} requests, {wait.p50:.0f} ms p50, {wait.p99:.0f} p99, {wait.max:.0f} max"
        )
    if result.cost_per_met is not None and result.cost_reserved:
        console.print(
            f"cost {result.cost:.4g} while busy, {result.cost_per_met:.4g} per request within its SLOs; "
            f"{result.cost_reserved:.4g} all along; {result.over_budget} over their budgets"
        )
    if result.fairness_gap_tokens is not None:
        console.print(
            f"fairness gap {result.fairness_gap_tokens:.0f} weighted tokens; "
            f"bound {result.fairness_bound_tokens or 0:.0f}"
        )


def show_goodput(wanted: float, found: Sequence[Goodput], console: Console) -> None:
    """Print the outcome of a search, and the best run of every seed."""
    for search in found:
        if search.result is not None:
            show_run(search.result, console)
    mean_rps = sum(f.goodput_rps for f in found) / len(found)
    each = ", ".join(f"{f.goodput_rps:.2f}" for f in found)
    console.print(f"highest rate at {wanted:.0%} attainment: {mean_rps:.2f} requests/s (by seed: {each})")


def _three(spread: Spread, *names: str) -> str:
    return " / ".join(f"{getattr(spread, name):.0f}" for name in names)
