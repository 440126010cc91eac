"""Prometheus' port of a service without HTTP of its own."""

import contextlib
from collections.abc import Iterator

from prometheus_client import start_http_server

from sagellm_schemas import SettingsError

from .prometheus import SchedulerMetrics


@contextlib.contextmanager
def exposed(metrics: SchedulerMetrics, port: int | None) -> Iterator[None]:
    """Serve `metrics` over HTTP at `port`; None serves nothing."""
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, registry=metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served at port {port}: {error.strerror}; SAGELLM_METRICS_PORT"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
