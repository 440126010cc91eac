"""A progress bar on stderr, where that is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from .scenario import Progress as Report


@contextmanager
def showing(runs: int | None) -> Iterator[Report]:
    """What runs report to; `runs` is how many there will be, if that is known."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("simulating")
        run, before = 1, 0

        def report(ended: int, total: int) -> None:
            nonlocal run, before
            if ended < before:
                run += 1
            before = ended
            of = f" of {runs}" if runs is not None else ""
            bar.update(task, description=f"run {run}{of}", completed=ended, total=total)

        yield report
