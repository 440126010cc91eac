"""The ingress's parts, put together."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator

import msgspec
from nats.aio.client import Client

from sagellm.broker import connect, ensure_topology
from sagellm.settings import Settings

from .intake import Intake
from .metrics import Metrics
from .models import Models
from .publisher import Publisher
from .readers import Readers
from .readiness import Readiness

logger = logging.getLogger(__name__)

MODELS_TIMEOUT_S = 10.0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes work with."""

    settings: Settings
    nc: Client
    models: Models
    readiness: Readiness
    readers: Readers
    publisher: Publisher
    intake: Intake
    metrics: Metrics


@contextlib.asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Connect to NATS and listen to all that the ingress needs; close everything at the end.

    Raises:
        BrokerError: NATS cannot be used; the message says why.
    """
    owner = f"ingress-{secrets.token_hex(6)}"
    async with connect(settings, name=owner) as connection, contextlib.AsyncExitStack() as stack:
        await ensure_topology(connection.js, settings)
        readers = Readers(connection, owner)
        publisher = Publisher(connection, settings.publish_timeout_s)
        readiness = Readiness(connection, settings.heartbeat_timeout_s)
        models = Models(connection)
        for part in (readers, publisher, readiness):
            await stack.enter_async_context(part.listening())
        group = await stack.enter_async_context(asyncio.TaskGroup())
        following = group.create_task(models.follow(), name="models")
        stack.callback(following.cancel)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(models.wait_until_loaded(), MODELS_TIMEOUT_S)
        yield Service(
            settings=settings,
            nc=connection.nc,
            models=models,
            readiness=readiness,
            readers=readers,
            publisher=publisher,
            intake=Intake(publisher, readers),
            metrics=Metrics(),
        )
