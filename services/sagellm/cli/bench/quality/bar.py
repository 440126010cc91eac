"""The bar people see while texts are scored."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


@contextlib.contextmanager
def scoring_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the tokens scored and their total; it draws a bar, but only on a terminal."""
    columns = (TextColumn("scoring"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring")
        yield lambda scored, total: bar.update(task, completed=scored, total=total)
