"""Wiring of the worker."""

import asyncio
from typing import TYPE_CHECKING

from sagellm.broker import connect, ensure_topology
from sagellm.settings import Settings

from .engines import make_engine
from .registered import RegisteredServers
from .service import Worker

if TYPE_CHECKING:
    from sagellm_engine.loader.progress import LoadProgress


async def run(settings: Settings, stop: asyncio.Event, progress: "LoadProgress | None" = None) -> None:
    """Run a worker until `stop` is set or it is told to leave, then drain it. Meanwhile it takes on registered
    servers. `progress` is told how far its model is loaded.

    Raises:
        SageError: NATS cannot be used, the model cannot be loaded, or the engine's settings are wrong; the message
            is one sentence for the operator.
    """
    async with connect(settings, name="sagellm-worker") as connection:
        await ensure_topology(connection.js, settings)
        worker = Worker(settings, connection, make_engine(settings, progress))
        leave = asyncio.Event()
        servers = RegisteredServers(settings, connection, _serve)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(servers.run(leave), name="registered servers")
                stopping = tasks.create_task(_pass_on(stop, leave), name="stop")
                try:
                    await worker.run(stop)
                finally:
                    stopping.cancel()
                    leave.set()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group


async def _serve(settings: Settings, server: str, stop: asyncio.Event) -> None:
    """Serve one registered server. Its connection is its own, so that nothing of it is left when it has gone."""
    async with connect(settings, name="sagellm-worker") as connection:
        await Worker(settings, connection, make_engine(settings), server=server).run(stop)


async def _pass_on(stop: asyncio.Event, leave: asyncio.Event) -> None:
    await stop.wait()
    leave.set()
