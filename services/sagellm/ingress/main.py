"""Runs the HTTP ingress: opens the service, serves, and shuts down in order."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn

from sagellm.settings import Settings
from sagellm_schemas import SettingsError, Unavailable

from .app import Application
from .infer import infer_service
from .service import Service, open_service

logger = logging.getLogger(__name__)

BACKLOG = 4096
MODELS_TIMEOUT_S = 10.0
"""How long to wait for the models known at the start before serving without them."""
CLOSING_TIMEOUT_S = 2.0


class _Server(uvicorn.Server):
    """Signals belong to whoever called `run`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: Settings, stop: asyncio.Event, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until `stop` is set; `on_ready` gets the base URL once connections are accepted.

    On `stop` no new connections are accepted; open answers may go on for `drain_timeout_s`, then they end with an
    error and their requests are cancelled.

    Raises:
        BrokerError: NATS cannot be used.
        SettingsError: the address cannot be listened on.
    """
    with _listen(settings) as listener:
        async with open_service(settings) as service, asyncio.TaskGroup() as group:
            background = [
                group.create_task(service.models.follow(), name="models"),
                group.create_task(service.publisher.give_up_late(), name="publish timeouts"),
            ]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.models.wait_until_loaded(), MODELS_TIMEOUT_S)
            async with infer_service(service):
                server = _server(service)
                background.append(group.create_task(_close(server, service, stop), name="shutdown"))
                if on_ready is not None:
                    on_ready(_url(listener))
                await server.serve(sockets=[listener])
            for task in background:
                task.cancel()


def _server(service: Service) -> _Server:
    return _Server(
        uvicorn.Config(
            Application(service),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
        )
    )


async def _close(server: uvicorn.Server, service: Service, stop: asyncio.Event) -> None:
    """Wait for `stop`; then end the server within the grace period."""
    await stop.wait()
    service.readiness.stopping = True
    server.should_exit = True
    await asyncio.sleep(service.settings.drain_timeout_s)
    logger.warning("%d answers were still open at the end of the grace period", len(service.readers))
    service.readers.fail_all(Unavailable("the server is shutting down; please try again").body())
    await asyncio.sleep(CLOSING_TIMEOUT_S)
    server.force_exit = True


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "set SAGELLM_HOST and SAGELLM_PORT, or --host and --port"
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
