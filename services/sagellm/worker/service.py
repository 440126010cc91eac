"""The worker's life: start the engine, make it known, work, drain, stop."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Coroutine
from typing import Any

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, Sender, ensure_topology
from sagellm.exposition import serve_metrics
from sagellm.settings import Settings
from sagellm_engine.contract import AsyncEngine, ServedModel
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import EngineError, EngineState, InstanceInfo, ModelLoadError, SageError, subjects

from . import registry
from .control import Orders
from .gpus import gpus_of
from .heartbeat import Heartbeat
from .intake import Intake
from .ledger import Ledger
from .metrics import Counters, EngineCollector
from .outbox import Outbox
from .prefixes import PrefixReports

logger = logging.getLogger(__name__)

RECOVERY_PAUSE_S = 0.5


class Worker:
    """One engine at work for the scheduler; `server` is the id of a registered server."""

    def __init__(
        self, settings: Settings, connection: Connection, engine: AsyncEngine, *, server: str = ""
    ) -> None:
        self.instance = instance_id(settings)
        self._settings = settings
        self._connection = connection
        self._engine = engine
        self._ledger = Ledger()
        self._counters = Counters()
        self._sender = Sender(connection.nc)
        self._outbox = Outbox(
            self.instance,
            self._ledger,
            self._sender,
            self._counters,
            tells_starts=_step_tokens(settings) > 0,
        )
        self._draining = False
        self._stopped = False
        self._server = server
        self._told_to_leave = asyncio.Event()
        self._reconnected = asyncio.Event()

    @property
    def state(self) -> EngineState:
        """Where the worker is in its life."""
        if self._stopped:
            return EngineState.STOPPED
        if self._draining:
            return EngineState.DRAINING
        return EngineState.READY if self._engine.healthy() else EngineState.ERROR

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or an order says to leave, then drain.

        Raises:
            SageError: the model cannot be loaded, NATS refuses what the worker needs, or the engine has died.
        """
        try:
            served = await _unless(stop, self._engine.start(self._outbox.emit))
            if served is not None:
                await self._serve(served, stop)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # a background task died, which stops the service
        finally:
            await self._engine.close()

    async def _serve(self, served: ServedModel, stop: asyncio.Event) -> None:
        settings = self._settings
        await ensure_topology(self._connection.js, settings)
        card = await registry.publish_model(self._connection, served)
        info = _instance_info(self.instance, settings, served, self._server)
        heartbeat = Heartbeat(
            info, self._engine, self._ledger, self._sender, lambda: self.state, gpus_of(settings)
        )
        intake = Intake(
            self._connection,
            self._engine,
            self._ledger,
            self._outbox,
            _tokenizer(served, card.name),
            lambda: self._accepting(heartbeat),
        )
        prefixes = PrefixReports(
            self.instance, served.prefix_block_size, self._engine.prefix_changes, self._sender
        )
        orders = Orders(
            self._engine,
            self._ledger,
            self._outbox,
            heartbeat,
            self._sender,
            lambda: self._drain(heartbeat),
            self._told_to_leave.set,
            prefixes.account,
        )
        self._counters.registry.register(EngineCollector(lambda: heartbeat.latest))
        self._connection.on_reconnect(self._on_reconnect)
        with serve_metrics(self._counters.registry, settings.host, settings.metrics_port):
            async with asyncio.TaskGroup() as tasks:
                await orders.listen(self._connection, self.instance)
                await intake.open(settings.role, self.instance)
                await registry.register(self._connection, info)
                background = [
                    tasks.create_task(intake.start_long_prompts(), name="worker long prompts"),
                    tasks.create_task(heartbeat.run(settings.heartbeat_interval_s), name="worker heartbeat"),
                    tasks.create_task(prefixes.run(settings.heartbeat_interval_s), name="worker prefixes"),
                    tasks.create_task(self._stay_registered(info, intake), name="worker registration"),
                    tasks.create_task(self._watch_engine(), name="worker engine watch"),
                    tasks.create_task(self._recover(served, info, intake, orders), name="worker recovery"),
                ]
                logger.info("worker %s is ready: %s on engine %s", self.instance, card.name, settings.engine)
                await _either(stop, self._told_to_leave)
                await self._leave(info, heartbeat, intake, orders)
                for task in background:
                    task.cancel()
        logger.info("worker %s has stopped", self.instance)

    def _accepting(self, heartbeat: Heartbeat) -> bool:
        """Whether work may start; if not, the scheduler is told so before it gets its item back."""
        if self.state == EngineState.READY:
            return True
        heartbeat.beat_if_changed()
        return False

    def _drain(self, heartbeat: Heartbeat) -> None:
        self._draining = True
        heartbeat.beat()

    async def _leave(self, info: InstanceInfo, heartbeat: Heartbeat, intake: Intake, orders: Orders) -> None:
        """Finish what runs within the drain timeout, hand back the rest, and sign off."""
        self._drain(heartbeat)
        running = len(self._ledger.jobs)
        if running:
            logger.info("draining: %d requests, at most %g s", running, self._settings.drain_timeout_s)
        try:
            await asyncio.wait_for(self._ledger.idle.wait(), self._settings.drain_timeout_s)
        except TimeoutError:
            logger.info("handing back %d requests", len(self._ledger.jobs))
            orders.preempt(list(self._ledger.jobs.values()))
        await self._sender.flush()  # acknowledgements are worth nothing once the consumer has gone
        try:
            async with asyncio.timeout(self._settings.publish_timeout_s):
                await intake.close()
                await registry.deregister(self._connection, info)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            logger.warning("could not sign off at NATS: %s", error or type(error).__name__)
        orders.preempt(list(self._ledger.jobs.values()))
        self._stopped = True
        heartbeat.beat()
        await self._sender.flush()

    async def _stay_registered(self, info: InstanceInfo, intake: Intake) -> None:
        """Keep the registration and the consumer alive, for ever."""
        ttl_s = max(10.0, 5 * self._settings.heartbeat_timeout_s)
        while True:
            await asyncio.sleep(ttl_s / 3)
            try:
                await registry.register(self._connection, info)
                await intake.ensure()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("could not refresh the registration: %s", error or type(error).__name__)

    async def _watch_engine(self) -> None:
        """Stop the service when an engine in this process has died; one behind a server may come back."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval_s)
            if self._settings.engine == "sagellm" and not self._engine.healthy():
                await self._sender.flush()  # the failures it has reported
                raise EngineError("the engine has died, the log says of what; start the worker again")

    async def _on_reconnect(self) -> None:
        self._reconnected.set()

    async def _recover(self, served: ServedModel, info: InstanceInfo, intake: Intake, orders: Orders) -> None:
        """After each reconnection: restore what the server may have forgotten, hand back what ran.

        Frames may have been lost with the connection, so no answer that was under way can go on in place. The
        scheduler asks each reader what it holds and dispatches the request again from there.
        """
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            try:
                await ensure_topology(self._connection.js, self._settings)
                await registry.publish_model(self._connection, served)
                await registry.register(self._connection, info)
                await intake.ensure()
            except (SageError, nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("not everything is back at NATS, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(RECOVERY_PAUSE_S)
                self._reconnected.set()
                continue
            self._ledger.forget_endings()
            orders.preempt(list(self._ledger.jobs.values()))


def instance_id(settings: Settings) -> str:
    """A name that no other worker has, also not an earlier life of this one."""
    return f"{subjects.token(settings.instance_id or 'worker')}-{secrets.token_hex(4)}"


async def _either(*events: asyncio.Event) -> None:
    """Wait until one of `events` is set."""
    waiting = [asyncio.create_task(event.wait(), name="stop") for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _instance_info(instance: str, settings: Settings, served: ServedModel, server: str) -> InstanceInfo:
    return InstanceInfo(
        instance_id=instance,
        model=served.card.name,
        role=settings.role,
        engine=settings.engine,
        host=socket.gethostname(),
        max_concurrent_requests=served.max_concurrent_requests,
        max_batched_tokens=_step_tokens(settings),
        max_model_len=served.card.max_model_len,
        machine_id=settings.machine_id,
        rack_id=settings.rack_id,
        price_per_hour=settings.price_per_hour,
        started_at=time.time(),
        server=server,
        adapters=served.adapters,
    )


def _tokenizer(served: ServedModel, name: str) -> Tokenizer | None:
    if not served.tokenizer_json:
        return None
    try:
        return Tokenizer(served.tokenizer_json, served.card)
    except ValueError as error:
        raise ModelLoadError(f"the tokenizer of {name} cannot be used: {error}") from None


async def _unless(stop: asyncio.Event, starting: Coroutine[Any, Any, ServedModel]) -> ServedModel | None:
    """Await the engine's start, but no longer than until `stop`; None if that came first."""
    start = asyncio.create_task(starting, name="engine start")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([start, stopped], return_when=asyncio.FIRST_COMPLETED)
        return await start if start.done() else None
    finally:
        for task in (start, stopped):
            task.cancel()
        await asyncio.gather(start, stopped, return_exceptions=True)


def _step_tokens(settings: Settings) -> int:
    """Tokens of one step of the engine; 0 for engines that are not ours."""
    return settings.max_batched_tokens if settings.engine == "sagellm" else 0
