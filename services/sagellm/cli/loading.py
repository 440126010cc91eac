"""What people see while a worker loads its model: a bar on a terminal, a line now and then in a log."""

import logging
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 2.0
"""Models that load faster than this leave no line."""

log = logging.getLogger(__name__)


class LoadingShown:
    """A `LoadProgress` for a model of that name. One loading only: when all is loaded the bar goes."""

    def __init__(
        self, model: str, console: Console | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._now_s = now_s
        self._line_s = now_s()
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None

    def __call__(self, loaded: int, total: int) -> None:
        """See `LoadProgress`."""
        if self._console.is_terminal:
            self._draw(loaded, total)
        elif self._now_s() - self._line_s >= LINE_EVERY_S:
            self._line_s = self._now_s()
            log.info("loading %s: %d %%", self._model, 100 * loaded // total)

    def _draw(self, loaded: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(f"loading {self._model}", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=loaded)
        if loaded >= total:
            self._bar.stop()
