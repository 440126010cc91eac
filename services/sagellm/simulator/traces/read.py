"""Reading a trace file, whatever its format."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sagellm_schemas import InvalidRequest

from .azure import read_azure
from .lines import read_lines
from .mooncake import read_mooncake
from .recorded import MARK, read_recorded
from .request import TraceRequest


def read_trace(path: Path, duration_s: float | None = None) -> list[TraceRequest]:
    """All requests by arrival, the first at 0 s; with `duration_s` those of so many first seconds.

    `.csv` is Azure's format, `.jsonl` Mooncake's or our own, which the first line tells; `.gz` may be behind.

    Raises:
        InvalidRequest: the file cannot be read, a line is wrong, or nothing is left.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".csv":
        found = list(read_azure(path))
    elif kind in (".jsonl", ".json", ".ndjson"):
        found = read_recorded(path) if _is_recorded(path) else list(read_mooncake(path))
    else:
        raise InvalidRequest(
            f"the trace {path} must end in .csv (Azure) or .jsonl (Mooncake, sagellm record), or in either and .gz"
        )
    if not found:
        raise InvalidRequest(f"the trace {path} has no requests")
    return _from_zero(found, duration_s)


def _is_recorded(path: Path) -> bool:
    _number, first = next(read_lines(path), (1, ""))
    return MARK in first


def _from_zero(found: Sequence[TraceRequest], duration_s: float | None) -> list[TraceRequest]:
    ordered = sorted(found, key=lambda request: request.arrival_s)
    start_s = ordered[0].arrival_s
    return [
        replace(request, arrival_s=request.arrival_s - start_s)
        for request in ordered
        if duration_s is None or request.arrival_s - start_s < duration_s
    ]
