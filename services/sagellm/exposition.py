"""Prometheus' port of a service that speaks no HTTP otherwise."""

import contextlib
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server

from sagellm_schemas import SettingsError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def serve_metrics(registry: CollectorRegistry, host: str, port: int | None) -> Iterator[int | None]:
    """Serve `/metrics` on `port` (0 picks a free one) while the context lasts; yields the port, None if unwanted.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port}: {error.strerror}; set another SAGELLM_METRICS_PORT"
        ) from None
    logger.info("metrics at http://%s:%d/metrics", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
