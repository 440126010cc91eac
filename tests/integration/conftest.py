"""A real nats-server for every test, on a port of its own, with a store that is thrown away."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm.broker import Connection, EmbeddedServer, connect, embedded_server, ensure_topology
from sagellm.settings import Settings

MAX_PAYLOAD_BYTES = 1 << 20


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A fresh server."""
    async with embedded_server(tmp_path / "nats", max_payload_bytes=MAX_PAYLOAD_BYTES) as server:
        yield server


@pytest.fixture
def settings(nats_server: EmbeddedServer, tmp_path: Path) -> Settings:
    """Settings for that server, with short clocks; `settings.model_copy(update=...)` changes some."""
    return Settings.load(
        nats_url=nats_server.url,
        nats_token=nats_server.token,
        state_dir=tmp_path,
        max_message_bytes=MAX_PAYLOAD_BYTES,
        storage="memory",
        lease_ttl_s=0.5,
        heartbeat_interval_s=0.05,
        heartbeat_timeout_s=1.0,
    )


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    """A connection to that server, its streams and buckets made."""
    async with connect(settings, "test") as connection:
        await ensure_topology(connection.js, settings)
        yield connection
