"""Connecting to NATS, with the checks that turn a wrong set-up into one plain sentence."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext

from sagellm.settings import Settings
from sagellm_schemas import BrokerError

from .client import Client

logger = logging.getLogger(__name__)

Hook = Callable[[], Awaitable[None]]


class Connection:
    """A connection that is up and has JetStream.

    `nc` is ours (see `client.py`), `js` nats-py's. Hooks added with `on_reconnect` run after every reconnection:
    what happened on core subjects in between was missed.
    """

    def __init__(self, nc: Client) -> None:
        self.nc = nc
        self.js: JetStreamContext = nc.jetstream()
        self._hooks: list[Hook] = []

    def on_reconnect(self, hook: Hook) -> None:
        """Run `hook` after every reconnection."""
        self._hooks.append(hook)

    async def reconnected(self) -> None:
        """Run the hooks; called by the client."""
        for hook in self._hooks:
            await hook()

    @property
    def connected(self) -> bool:
        """Whether the connection is up at this moment."""
        return bool(self.nc.is_connected)


@contextlib.asynccontextmanager
async def connect(settings: Settings, name: str) -> AsyncIterator[Connection]:
    """Connect as `name`, check what the server offers, and close in order at the end.

    Once up, the client reconnects for as long as the context lasts.

    Raises:
        BrokerError: nothing listens, wrong credentials, no JetStream, or `max_payload` is too small.
    """
    nc = Client()
    connection = Connection(nc)
    refused = asyncio.Event()

    async def on_error(error: Exception) -> None:
        if _is_refusal(error):
            refused.set()
        elif nc.is_connected:
            logger.warning("NATS: %s", str(error) or type(error).__name__)

    async def on_disconnect() -> None:
        if not nc.is_closed and not nc.is_draining:
            logger.warning("connection to NATS lost; reconnecting")

    async def on_reconnect() -> None:
        logger.info("connected to NATS again")
        await connection.reconnected()

    where = ", ".join(_without_secrets(url) for url in servers(settings))
    try:
        await _unless(
            refused,
            nc.connect(
                servers=servers(settings),
                name=name,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                connect_timeout=max(1, round(settings.nats_connect_timeout_s)),
                allow_reconnect=True,
                max_reconnect_attempts=max(1, round(settings.nats_connect_timeout_s / 0.5)),
                reconnect_time_wait=0.5,  # type: ignore[arg-type]
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=64 << 20,
                **_credentials(settings),
            ),
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise _explain(error, where) from None
    nc.options["max_reconnect_attempts"] = -1
    try:
        await _check(connection, settings, where)
        yield connection
    finally:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):
            await nc.close()  # RuntimeError: uvloop's, where the server has closed the connection before


def servers(settings: Settings) -> list[str]:
    """The server URLs of `settings.nats_url`."""
    return [url.strip() for url in settings.nats_url.split(",") if url.strip()]


def _credentials(settings: Settings) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if settings.nats_token:
        given["token"] = settings.nats_token.get_secret_value()
    if settings.nats_user:
        given["user"] = settings.nats_user
    if settings.nats_password:
        given["password"] = settings.nats_password.get_secret_value()
    if settings.nats_credentials:
        given["user_credentials"] = str(settings.nats_credentials)
    return given


def _without_secrets(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"nats://{url}")
    return f"{parts.hostname}:{parts.port or 4222}"


async def _unless(refused: asyncio.Event, connecting: Coroutine[Any, Any, None]) -> None:
    """Await `connecting`, but no longer than until the server refuses: the client itself would go on trying."""
    attempt = asyncio.create_task(connecting)
    refusal = asyncio.create_task(refused.wait())
    try:
        await asyncio.wait([attempt, refusal], return_when=asyncio.FIRST_COMPLETED)
        if refused.is_set():
            raise nats.errors.AuthorizationError
        await attempt
    finally:
        for task in (attempt, refusal):
            task.cancel()
        await asyncio.gather(attempt, refusal, return_exceptions=True)


def _is_refusal(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text


def _explain(error: Exception, where: str) -> BrokerError:
    if _is_refusal(error):
        return BrokerError(
            f"NATS at {where} refuses our credentials; set SAGELLM_NATS_TOKEN, "
            "SAGELLM_NATS_USER and SAGELLM_NATS_PASSWORD, or SAGELLM_NATS_CREDENTIALS"
        )
    if isinstance(error, OSError | TimeoutError | nats.errors.NoServersError):
        return BrokerError(f"nothing answers as NATS at {where}; start a nats-server there, or give --nats-url")
    return BrokerError(f"NATS at {where} cannot be used: {error or type(error).__name__}")


async def _check(connection: Connection, settings: Settings, where: str) -> None:
    allowed = connection.nc.max_payload
    if allowed < settings.max_message_bytes:
        raise BrokerError(
            f"NATS at {where} allows messages of {allowed} bytes, we need {settings.max_message_bytes}; "
            "raise max_payload in its configuration, or lower SAGELLM_MAX_MESSAGE_BYTES"
        )
    try:
        await connection.js.account_info()
    except (nats.js.errors.Error, nats.errors.Error, TimeoutError):
        raise BrokerError(
            f"NATS at {where} has no JetStream; start it with `nats-server -js`, or add `jetstream {{}}` to its "
            "configuration, and enable it for this account"
        ) from None
