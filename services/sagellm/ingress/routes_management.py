"""`/v1/management/…`: operators' questions and orders, handed on to the leading scheduler."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from sagellm.management import Management
from sagellm_schemas import InvalidRequest

from .body import ClientGone, read_body
from .management_routes import PREFIX, Fields, Route, routes
from .service import Service
from .streaming import CLIENT_GONE_STATUS


def router(service: Service) -> APIRouter:
    """The routes."""
    management = Management(service.nc)
    made = APIRouter(prefix=PREFIX, tags=["management"])
    for route in routes():
        made.add_api_route(
            route.path,
            _endpoint(service, management, route),
            methods=[route.method],
            summary=route.summary,
            operation_id=_operation_id(route),
            status_code=route.status,
        )
    return made


def _operation_id(route: Route) -> str:
    name = route.path.strip("/").replace("/{id}", "_one")
    return f"{route.method.lower()}_{name}"


def _endpoint(service: Service, management: Management, route: Route) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            fields = await _fields(request, route, service.settings.max_body_bytes)
        except ClientGone:
            return Response(status_code=CLIENT_GONE_STATUS)
        asked = route.asked(request.path_params.get("id", ""), fields)
        answer = await management.ask(route.subject, asked, route.answer)
        shown = answer if route.result is None else route.result(answer)
        return Response(msgspec.json.encode(shown), route.status, media_type="application/json")

    return endpoint


async def _fields(request: Request, route: Route, max_bytes: int) -> Fields:
    """The fields of the query string, or of the body where there is to be one.

    Raises:
        InvalidRequest: the body is not a JSON object, or is not said to be JSON.
        MessageTooLarge: the body is.
        ClientGone: nobody is there to be answered.
    """
    if route.body is None:
        return dict(request.query_params) if route.query is not None else {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        # Pages of other sites cannot send this header unasked, so they cannot order anything here.
        raise InvalidRequest("send JSON, with the header `Content-Type: application/json`")
    body = await read_body(request.scope, request.receive, max_bytes)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None
