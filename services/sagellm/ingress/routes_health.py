"""`GET /health`, `/ready` and `/metrics`: for probes and Prometheus."""

import msgspec
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .service import Service


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process is alive."""

    status: str = "ok"


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests can be answered now; if not, `reason` says why."""

    status: str
    models: list[str]
    reason: str | None = None


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", summary="Is the process alive?")
    async def health() -> Response:
        return Response(msgspec.json.encode(Health()), media_type="application/json")

    @routes.get("/ready", summary="Can requests be answered now?")
    async def ready() -> Response:
        reason = service.readiness.problem()
        document = Ready(
            status="ready" if reason is None else "not ready", models=service.readiness.models(), reason=reason
        )
        status = 200 if reason is None else 503
        return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")

    @routes.get("/metrics", summary="Metrics in Prometheus' text format")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes
