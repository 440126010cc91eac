"""The ingress's parts, put together."""

import contextlib
import secrets
from collections.abc import AsyncIterator

import msgspec

from sagellm.broker import Client, connect, ensure_topology
from sagellm.settings import Settings

from .intake import Intake
from .metrics import Metrics
from .models import Models
from .publisher import Publisher
from .readers import Readers
from .readiness import Readiness


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
