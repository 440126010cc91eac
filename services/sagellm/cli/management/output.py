"""What commands print: one JSON document for programs, tables for people."""

import time
from collections.abc import Sequence

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(answer: msgspec.Struct | Sequence[msgspec.Struct]) -> None:
    """The whole answer, as the ingress gave it, or several in one array."""
    typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())


def console() -> Console:
    """Standard output; where it is no terminal, lines are as long as they have to be."""
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=max(200, found.width))


def table(*columns: str, right: tuple[str, ...] = (), wide: str = "", one_line: bool = False) -> Table:
    """A plain table. The columns of `right` hold numbers; `wide` takes what room there is, if not `one_line` in
    several lines."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=bool(wide))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=one_line or name != wide,
            overflow="fold" if name == wide and not one_line else "ellipsis",
            ratio=1 if name == wide else None,
        )
    return made


def row(made: Table, *cells: str | Text) -> None:
    """Add a row; in plain texts, which may be anybody's, what cannot be printed is a question mark."""
    made.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells))


def printable(text: str) -> str:
    """`text`, unable to steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def duration(seconds: float | None) -> str:
    """A length of time, short."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return "now"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def until(at: float | None) -> str:
    """How long it is from now to a Unix time."""
    return "-" if at is None else duration(at - time.time())


def milliseconds(value: float | None) -> str:
    """A deadline or latency."""
    return "-" if value is None else duration(value / 1000)


def share(value: float) -> str:
    """A share as percent."""
    return f"{value:.0%}"
