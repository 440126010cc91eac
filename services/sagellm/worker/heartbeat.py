"""The worker's pulse: its state, load and running requests, at every interval and at every change."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from sagellm.broker import Sender
from sagellm_engine.contract import AsyncEngine
from sagellm_schemas import EngineState, InstanceInfo, InstanceReport, InstanceStats, encode, subjects

from .gpus import Gpus
from .ledger import Ledger


class Heartbeat:
    """Publishes `InstanceStats`; also keeps the latest one."""

    def __init__(
        self,
        info: InstanceInfo,
        engine: AsyncEngine,
        ledger: Ledger,
        sender: Sender,
        state: Callable[[], EngineState],
        gpus: Gpus | None = None,
    ) -> None:
        self._info = info
        self._engine = engine
        self._ledger = ledger
        self._sender = sender
        self._state = state
        self._gpus = gpus
        self._subject = subjects.stats(info.instance_id)
        self.latest: InstanceStats | None = None

    def now(self) -> InstanceStats:
        """How the instance stands at this moment."""
        stats = self._engine.stats()
        if self._gpus is not None:
            stats = msgspec.structs.replace(stats, gpu_utilization=self._gpus.utilization())
        return InstanceStats(
            info=self._info,
            state=self._state(),
            running=self._ledger.attempts(),
            stats=stats,
            sent_at=time.time(),
            term=self._ledger.term,
        )

    def beat(self) -> None:
        """Publish now."""
        self.latest = self.now()
        self._sender.send(self._subject, encode(self.latest))

    def beat_if_changed(self) -> None:
        """Publish now if the state differs from the one last published."""
        if self.latest is None or self.latest.state != self._state():
            self.beat()

    def report(self) -> InstanceReport:
        """A heartbeat with the latest endings: what `Control` is answered with."""
        return InstanceReport(heartbeat=self.now(), ended=self._ledger.latest())

    async def run(self, interval_s: float) -> None:
        """Beat for ever."""
        while True:
            self.beat()
            await asyncio.sleep(interval_s)
