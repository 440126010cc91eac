"""The ASGI application: hot routes first and bare, everything else through FastAPI."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from sagellm_schemas import SageError

from . import openapi, routes_chat, routes_completions, routes_health, routes_management, routes_models
from .openai import errors
from .service import Service

logger = logging.getLogger(__name__)


class Application:
    """Hands the two hot routes straight to their endpoints.

    FastAPI would pass each request through four layers before it looks at the path; they do nothing for these
    two but cost as much as decoding and answering.
    """

    def __init__(self, service: Service) -> None:
        self._hot: dict[str, ASGIApp] = {
            routes_chat.PATH: routes_chat.chat_endpoint(service),
            routes_completions.PATH: routes_completions.completions_endpoint(service),
        }
        self.fastapi = _fastapi(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        hot = self._hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (hot or self.fastapi)(scope, receive, send)


def _fastapi(service: Service) -> FastAPI:
    app = FastAPI(title="sageLLM", version=openapi.package_version(), redoc_url=None)
    app.include_router(routes_health.router(service))
    app.include_router(routes_models.router(service))
    app.include_router(routes_management.router(service))
    for path in (routes_chat.PATH, routes_completions.PATH):
        # The application above answers these; here they make 405 of other methods.
        app.add_route(path, _method_not_allowed, methods=["POST"], include_in_schema=False)
    app.add_exception_handler(SageError, _sage_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected)
    schema: dict[str, Any] = {}

    def openapi_once() -> dict[str, Any]:
        if not schema:
            schema.update(openapi.document(app))
        return schema

    app.openapi = openapi_once  # type: ignore[method-assign]
    return app


async def _method_not_allowed(_request: Request) -> Response:
    raise HTTPException(405)


async def _sage_error(_request: Request, error: Exception) -> Response:
    body = error.body() if isinstance(error, SageError) else SageError(str(error)).body()
    response = errors.http_error(body)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return Response(response.body, response.status, headers, "application/json")


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = f"{request.method} {request.url.path}"
    message, code = {
        404: (f"there is nothing at {what}; see /docs", "not_found"),
        405: (f"{what} is not allowed; see /docs", "method_not_allowed"),
    }.get(status, (str(error), "http_error"))
    headers = dict(getattr(error, "headers", None) or {})
    return Response(errors.document(status, message, code=code), status, headers, "application/json")


async def _validation_error(_request: Request, error: Exception) -> Response:
    return Response(errors.document(422, str(error), code="invalid_request"), 422, media_type="application/json")


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return Response(
        errors.document(500, "an internal error; the log has details", code=SageError.code),
        500,
        media_type="application/json",
    )
