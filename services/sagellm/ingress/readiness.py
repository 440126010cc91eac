"""Which instances are ready, from their heartbeats."""

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec

from sagellm.broker import Connection, Message
from sagellm_schemas import Codec, EngineState, InvalidRequest, subjects


class _Info(msgspec.Struct, frozen=True):
    instance_id: str
    model: str


class _Heartbeat(msgspec.Struct, frozen=True):
    """The part of `InstanceStats` that matters here; the rest is not even decoded."""

    info: _Info
    state: EngineState


class Readiness:
    """Knows the models that have a ready instance at this moment."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self.stopping = False
        """Set when the service shuts down: it is not ready any more, whatever the workers are."""
        self._connection = connection
        self._timeout_s = timeout_s
        self._heartbeats: Codec[_Heartbeat] = Codec(_Heartbeat)
        self._ready: dict[str, tuple[str, float]] = {}

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Follow heartbeats within this context."""
        async with self._connection.nc.handling(subjects.ALL_STATS, self._on_heartbeat):
            yield

    def models(self) -> list[str]:
        """Names of the models with a ready instance."""
        oldest = time.monotonic() - self._timeout_s
        self._ready = {i: (model, seen) for i, (model, seen) in self._ready.items() if seen >= oldest}
        return sorted({model for model, _ in self._ready.values()})

    def problem(self) -> str | None:
        """Why requests cannot be answered now; None when they can."""
        if self.stopping:
            return "the ingress is shutting down"
        if not self._connection.connected:
            return "there is no connection to NATS"
        if not self.models():
            return "no worker is ready yet"
        return None

    def _on_heartbeat(self, msg: Message) -> None:
        try:
            heartbeat = self._heartbeats.decode(msg.data)
        except InvalidRequest:
            return
        if heartbeat.state is EngineState.READY:
            self._ready[heartbeat.info.instance_id] = (heartbeat.info.model, time.monotonic())
        else:
            self._ready.pop(heartbeat.info.instance_id, None)
