"""Azure's public LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from .lines import bad_line, read_lines, token_count
from .request import TraceRequest

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_azure(path: Path) -> Iterator[TraceRequest]:
    """The requests in the file's order; `arrival_s` are Unix seconds.

    Raises:
        InvalidRequest: naming the line at fault.
    """
    lines = read_lines(path)
    number, head = next(lines, (1, ""))
    if tuple(next(csv.reader([head]), [])) != COLUMNS:
        raise bad_line(path, number, f"an Azure trace begins with the line {','.join(COLUMNS)}")
    for number, line in lines:
        fields = next(csv.reader([line]))
        if len(fields) != len(COLUMNS):
            raise bad_line(path, number, f"there must be {len(COLUMNS)} fields, not {len(fields)}")
        yield TraceRequest(
            arrival_s=_timestamp_s(path, number, fields[0]),
            input_tokens=token_count(path, number, "ContextTokens", fields[1], 1),
            output_tokens=max(1, token_count(path, number, "GeneratedTokens", fields[2], 0)),
        )


def _timestamp_s(path: Path, number: int, text: str) -> float:
    """Unix seconds. The files write seven decimals, of which `datetime` takes six; without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise bad_line(path, number, f"TIMESTAMP must be like 2023-11-16 18:15:46.68, not {text!r}") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
