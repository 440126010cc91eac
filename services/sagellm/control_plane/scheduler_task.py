"""The scheduler within this process, which can be exchanged for one with another policy."""

import asyncio
import contextlib

from sagellm.scheduler.main import run as run_scheduler
from sagellm.settings import Settings


class SchedulerTask:
    """Runs a scheduler with the latest settings.

    To switch, the scheduler gives its lease up and another takes over from the durable queue: what runs goes on,
    and what waits is in the new order before the next dispatch.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._switched = asyncio.Event()

    def switch(self, policy: str) -> None:
        """From now on order the queue by `policy`."""
        self._settings = self._settings.model_copy(update={"policy": policy})
        self._switched.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Schedule until `stop` is set.

        Raises:
            SageError: the scheduler died.
        """
        while not stop.is_set():
            self._switched.clear()
            leave = asyncio.Event()
            scheduling = asyncio.create_task(run_scheduler(self._settings, leave), name="scheduler")
            waiting = [
                asyncio.create_task(stop.wait(), name="stop"),
                asyncio.create_task(self._switched.wait(), name="policy switch"),
            ]
            try:
                await asyncio.wait([scheduling, *waiting], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                leave.set()
                with contextlib.suppress(Exception):
                    await scheduling
                raise
            finally:
                for task in waiting:
                    task.cancel()
            leave.set()
            await scheduling
