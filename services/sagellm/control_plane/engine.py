"""One worker in this process, and what its heartbeats say."""

import asyncio
import logging
import time
from collections.abc import Callable

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker import run as run_worker
from sagellm_schemas import Control, EngineState, InstanceStats, SageError, encode, subjects

from .instance import ExecutionInstance

logger = logging.getLogger(__name__)

RATE_INTERVAL_S = 1.0


class Engine:
    """The worker of one instance, whose id begins with `worker`; it answers orders on `reports`.

    `ended` is called with its model when it dies.
    """

    def __init__(
        self,
        instance: ExecutionInstance,
        settings: Settings,
        worker: str,
        connection: Connection,
        reports: str,
        ended: Callable[[str], None],
    ) -> None:
        self.instance = instance
        self.worker = worker
        self.latest: InstanceStats | None = None
        self._connection = connection
        self._reports = reports
        self._ended = ended
        self._stop = asyncio.Event()
        self.failure: SageError | None = None
        """Why it has died, if it has."""
        self._draining = False
        self._drained = asyncio.Event()
        self._rated_s = time.monotonic()
        self._rated_tokens = 0
        self._task = asyncio.create_task(run_worker(settings, self._stop), name=f"worker {instance.instance_id}")
        self._task.add_done_callback(self._on_end)

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.latest is not None and self.latest.state is EngineState.READY

    def heard(self, stats: InstanceStats) -> None:
        """Take in a heartbeat."""
        self.latest = stats
        instance = self.instance
        instance.is_available = stats.state is EngineState.READY
        instance.is_healthy = stats.state in (EngineState.READY, EngineState.DRAINING)
        instance.active_requests = len(stats.running)
        instance.current_load = len(stats.running) / instance.max_concurrent_requests
        now_s = time.monotonic()
        if now_s - self._rated_s >= RATE_INTERVAL_S:
            made = stats.stats.output_tokens_total - self._rated_tokens
            instance.throughput_tokens_per_sec = made / (now_s - self._rated_s)
            self._rated_s, self._rated_tokens = now_s, stats.stats.output_tokens_total
        if stats.state in (EngineState.DRAINING, EngineState.STOPPED) and not stats.running:
            self._drained.set()
        elif self._draining and stats.state is EngineState.READY:
            self.drain()

    def drain(self) -> bool:
        """Tell it to take nothing new; False if it has never been ready."""
        if self.latest is None:
            return False
        self._draining = True
        # As the leading scheduler would: with the term that the worker knows, so that it obeys. Its answer is a
        # report, which `heard` gets too: if the term has passed, the order goes out again at once.
        order = Control(term=self.latest.term, drain=True)
        subject = subjects.control(self.latest.info.instance_id)
        self._connection.nc.send(subject, encode(order), reply=self._reports)
        return True

    async def retire(self, timeout_s: float) -> bool:
        """Drain it for at most `timeout_s`, then stop it; what still runs is handed back to the queue.

        Tells whether everything had ended in time.
        """
        finished = self.latest is None or not self.latest.running
        if timeout_s > 0 and not self._task.done() and self.drain():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
                finished = True
            except TimeoutError:
                finished = False
        self._stop.set()
        await asyncio.wait([self._task])
        return finished

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self.instance.is_available = False
        self.instance.active_requests, self.instance.current_load = 0, 0.0
        self._drained.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.instance.is_healthy = False
        logger.error("instance %s has stopped: %s", self.instance.instance_id, error)
        self.failure = error if isinstance(error, SageError) else SageError(f"{type(error).__name__}: {error}")
        self._ended(self.instance.model_name)
