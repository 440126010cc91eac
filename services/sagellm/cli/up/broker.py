"""The broker of `sagellm up`: an embedded NATS server that is started again, in the same place, if it dies."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from sagellm.broker import embedded_server
from sagellm.cli.joining import JOIN_FILE
from sagellm.settings import Settings

from .output import Output


@contextlib.asynccontextmanager
async def broker(settings: Settings, output: Output) -> AsyncIterator[Settings]:
    """`settings` with a NATS server that runs: the one they name, or else an embedded one.

    Raises:
        BrokerError: the embedded server cannot be started.
    """
    if "nats_url" in settings.model_fields_set:
        yield settings
        return
    token = settings.nats_token.get_secret_value() if settings.nats_token else secrets.token_urlsafe(24)
    stop = asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_keep_running(settings, token, url, stop, output), name="nats")
        try:
            joined = settings.model_copy(update={"nats_url": await url, "nats_token": SecretStr(token)})
            with _join_file(settings.state_dir / JOIN_FILE, joined.nats_url, token):
                yield joined
        finally:
            stop.set()


async def _keep_running(
    settings: Settings, token: str, url: asyncio.Future[str], stop: asyncio.Event, output: Output
) -> None:
    port = -1
    while not stop.is_set():
        async with embedded_server(
            settings.state_dir, max_payload_bytes=settings.max_message_bytes, port=port, token=token
        ) as server:
            port = urlsplit(server.url).port or port
            if not url.done():
                url.set_result(server.url)
            ended = asyncio.create_task(server.process.wait(), name="nats-ended")
            stopped = asyncio.create_task(stop.wait(), name="nats-stop")
            try:
                await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended.cancel()
                stopped.cancel()
        if not stop.is_set():
            output.say("nats-server ended; starting it again")


@contextlib.contextmanager
def _join_file(path: Path, url: str, token: str) -> Iterator[None]:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"SAGELLM_NATS_URL={url}\nSAGELLM_NATS_TOKEN={token}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
