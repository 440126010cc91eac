"""A fresh NATS server, an ingress on a free port, and a backend that answers, for each test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from sagellm.broker import Connection, EmbeddedServer, connect, embedded_server, ensure_topology
from sagellm.ingress.main import run
from sagellm.settings import Settings

from .backend import Backend, byte_tokenizer, card, publish_card

StartIngress = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with embedded_server(tmp_path / "nats", max_payload_bytes=8 << 20) as server:
        yield server


@pytest.fixture
def settings(nats_server: EmbeddedServer) -> Settings:
    return Settings(
        nats_url=nats_server.url,
        nats_token=SecretStr(nats_server.token),
        port=0,
        storage="memory",
        drain_timeout_s=0.5,
        heartbeat_timeout_s=0.5,
    )


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[Connection]:
    async with connect(settings, name="test") as connected:
        await ensure_topology(connected.js, settings)
        yield connected


@pytest.fixture
async def backend(connection: Connection) -> AsyncIterator[Backend]:
    tokenizer = byte_tokenizer()
    await publish_card(connection, card(tokenizer=tokenizer), tokenizer)
    async with Backend(connection).running() as running:
        yield running


@pytest.fixture
def start_ingress(settings: Settings) -> StartIngress:
    """Starts an ingress with some settings changed, and gives its URL."""

    @contextlib.asynccontextmanager
    async def start(stop: asyncio.Event | None = None, **changes: object) -> AsyncIterator[str]:
        stop = stop or asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(run(settings.model_copy(update=changes), stop, on_ready=ready.set_result))
        try:
            await asyncio.wait([ready, running], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            yield ready.result()
        finally:
            stop.set()
            await running

    return start


@pytest.fixture
async def url(backend: Backend, start_ingress: StartIngress) -> AsyncIterator[str]:
    async with start_ingress() as started:
        yield started


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client
