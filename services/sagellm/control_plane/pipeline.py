"""What a manager needs of the broker: a connection, the readers of its answers, and the way into the queue."""

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from sagellm.broker import Connection, connect, embedded_server, ensure_topology
from sagellm.ingress.publisher import Publisher
from sagellm.ingress.readers import Readers
from sagellm.settings import Settings

NAME = "sagellm-control-plane"


@dataclass(frozen=True)
class Pipeline:
    """The parts; `settings` with which others join the same broker; `reports`, where workers answer orders.

    `embedded` says that the broker is our own.
    """

    settings: Settings
    connection: Connection
    readers: Readers
    publisher: Publisher
    reports: str
    embedded: bool


@contextlib.asynccontextmanager
async def open_pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """Connect to `settings.nats_url` where it is set, or else to an embedded server that ends with the context.

    The embedded server stores in `settings.state_dir` where that is set, or else in a folder that ends with it.

    Raises:
        BrokerError: NATS cannot be started or used.
    """
    async with contextlib.AsyncExitStack() as stack:
        embedded = "nats_url" not in settings.model_fields_set
        if embedded:
            settings = await _embedded(settings, stack)
        connection = await stack.enter_async_context(connect(settings, NAME))
        await ensure_topology(connection.js, settings)
        readers = Readers(connection, f"{NAME}-{secrets.token_hex(6)}")
        publisher = Publisher(connection, settings.publish_timeout_s)
        await stack.enter_async_context(readers.listening())
        await stack.enter_async_context(publisher.listening())
        yield Pipeline(settings, connection, readers, publisher, connection.nc.new_inbox(), embedded)


async def _embedded(settings: Settings, stack: contextlib.AsyncExitStack) -> Settings:
    if "state_dir" in settings.model_fields_set:
        folder = settings.state_dir
    else:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sagellm-control-plane-")))
    server = await stack.enter_async_context(embedded_server(folder, max_payload_bytes=settings.max_message_bytes))
    return settings.model_copy(update={"nats_url": server.url, "nats_token": SecretStr(server.token)})
