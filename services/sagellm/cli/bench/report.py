"""The results of a benchmark as a table, as JSON and as ratios."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from sagellm_schemas import SettingsError

from .environment import environment
from .measure import Plan, Result
from .summary import Percentiles
from .targets import Target

FILE_WIDTH = 130
"""Columns of a table that goes to no terminal."""


def ratios(results: Sequence[Result]) -> list[dict[str, object]]:
    """At each concurrency, the first target's medians divided by every other's."""
    first = results[0].label if results else ""
    found: list[dict[str, object]] = []
    for result in results:
        if result.label == first:
            continue
        base = next(r for r in results if r.label == first and r.concurrency == result.concurrency)
        ours, theirs = base.median, result.median
        found.append(
            {
                "concurrency": result.concurrency,
                "of": first,
                "to": result.label,
                "output_tokens_per_s": _ratio(ours.output_tokens_per_s, theirs.output_tokens_per_s),
                "ttft_ms_p50": _ratio(ours.ttft_ms.p50, theirs.ttft_ms.p50),
                "tpot_ms_p50": _ratio(ours.tpot_ms.p50, theirs.tpot_ms.p50),
            }
        )
    return found


def document(kind: str, targets: Sequence[Target], plan: Plan, results: Sequence[Result]) -> dict[str, object]:
    """Everything, raw samples included, for JSON."""
    return {"kind": kind, "environment": environment(), **part(targets, plan, results)}


def part(targets: Sequence[Target], plan: Plan, results: Sequence[Result]) -> dict[str, object]:
    """One plan's outcome, for JSON."""
    return {
        "plan": plan,
        "targets": [target.describe() for target in targets],
        "ratios": ratios(results),
        "results": results,
    }


def write_json(content: dict[str, object], path: str) -> None:
    """Write to the file `path`, or to stdout for "-".

    Raises:
        SettingsError: the file cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(content), indent=1)
    if path == "-":
        sys.stdout.buffer.write(data + b"\n")
        return
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def table_console(*, stderr: bool = False) -> Console:
    """Where `show` prints: wide enough, wherever it goes."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def show(results: Sequence[Result], console: Console) -> None:
    """Print the medians, and the ratios where there is more than one target."""
    table = Table(title="medians of the runs; times in ms as p50 / p90 / p99", title_justify="left")
    for column in ("target", "streams", "TTFT", "TPOT", "ITL", "output tokens/s", "requests/s", "errors"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for result in results:
        median = result.median
        table.add_row(
            result.label,
            str(result.concurrency),
            _three(median.ttft_ms),
            _three(median.tpot_ms),
            _three(median.itl_ms),
            f"{median.output_tokens_per_s:.1f}",
            f"{median.requests_per_s:.2f}",
            str(median.errors),
        )
    console.print(table)
    for ratio in ratios(results):
        console.print(
            f"{ratio['of']} / {ratio['to']} at {ratio['concurrency']} streams: "
            f"output tokens/s {ratio['output_tokens_per_s']}, TTFT {ratio['ttft_ms_p50']}, "
            f"TPOT {ratio['tpot_ms_p50']}"
        )
    messages = {message: count for result in results for message, count in result.median.error_messages.items()}
    for message, count in messages.items():
        console.print(f"{count} times: {message}", style="red", markup=False)


def _three(values: Percentiles) -> str:
    return f"{values.p50:.1f} / {values.p90:.1f} / {values.p99:.1f}"


def _ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 3) if theirs else None
