"""Wiring of the worker."""

import asyncio

from sagellm.broker import connect
from sagellm.settings import Settings

from .engines import make_engine
from .service import Worker


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until `stop` is set, then drain it.

    Raises:
        SageError: NATS cannot be used, the model cannot be loaded, or the engine's settings are wrong; the message
            is one sentence for the operator.
    """
    async with connect(settings, name="sagellm-worker") as connection:
        await Worker(settings, connection, make_engine(settings)).run(stop)
