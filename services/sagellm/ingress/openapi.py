"""The OpenAPI document: FastAPI's own, and the routes and schemas that are not FastAPI's."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from .management_routes import PREFIX, Route, routes
from .openai.bodies import ChatBody, CompletionBody
from .openai.errors import ErrorDocument
from .openai.responses import ChatCompletion, Completion, ModelDocument, ModelList
from .routes_health import Health, Ready

_STRUCTS = (
    ChatBody,
    ChatCompletion,
    CompletionBody,
    Completion,
    ModelDocument,
    ModelList,
    Health,
    Ready,
    ErrorDocument,
)

_RESULTS = {
    ("/v1/models", "200"): ModelList,
    ("/v1/models/{model_id}", "200"): ModelDocument,
    ("/v1/models/{model_id}", "404"): ErrorDocument,
    ("/health", "200"): Health,
    ("/ready", "200"): Ready,
    ("/ready", "503"): Ready,
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    made = get_openapi(
        title="sageLLM",
        version=package_version(),
        summary="OpenAI's protocol on a durable, policy-scheduled pipeline",
        routes=app.routes,
    )
    management = routes()
    described = (route.result_type for route in management)
    asked = (kind for route in management for kind in (route.query, route.body) if kind is not None)
    structs = list(dict.fromkeys([*_STRUCTS, *described, *asked]))
    schemas, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    made.setdefault("components", {})["schemas"] = components
    references = dict(zip(structs, schemas, strict=True))
    paths = made["paths"]
    for (path, status), struct in _RESULTS.items():
        responses = paths[path]["get"]["responses"]
        responses.pop("422", None)
        responses[status] = _content(references[struct], "Not ready" if status == "503" else "Answer")
    paths["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    paths["/v1/chat/completions"] = _post("Answer a conversation", ChatBody, ChatCompletion, references)
    paths["/v1/completions"] = _post("Continue a text", CompletionBody, Completion, references)
    for route in management:
        _describe(paths[PREFIX + route.path][route.method.lower()], route, references, components)
    return made


def package_version() -> str:
    """The version of the installed package; "0" when it runs from its source tree."""
    try:
        return version("sagellm")
    except PackageNotFoundError:
        return "0"


def _post(summary: str, body: type, answer: type, references: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    error = references[ErrorDocument]
    answered = _content(references[answer], "The answer; with `stream`, server-sent events of chunks")
    answered["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "post": {
            "tags": ["inference"],
            "summary": summary,
            "operationId": body.__name__,
            "requestBody": {"required": True, "content": {"application/json": {"schema": references[body]}}},
            "responses": {
                "200": answered,
                "400": _content(error, "A field is wrong, unsupported, or the context too short"),
                "404": _content(error, "No such model"),
                "413": _content(error, "The body is too large"),
                "429": _content(error, "The queue is full; see Retry-After"),
                "503": _content(error, "A part of the pipeline is not there"),
            },
        }
    }


def _describe(
    operation: dict[str, Any], route: Route, references: dict[Any, dict[str, Any]], components: dict[str, Any]
) -> None:
    """Complete the operation of one management route."""
    error = references[ErrorDocument]
    parameters = []
    if "{id}" in route.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    if route.query is not None:
        fields = components[route.query.__name__]["properties"]
        parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = references[route.body]
        if "{id}" in route.path:  # there the id is in the path
            whole = components[route.body.__name__]
            schema = whole | {
                "properties": {name: field for name, field in whole["properties"].items() if name != "id"},
                "required": [name for name in whole.get("required", ()) if name != "id"],
            }
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    operation["responses"] = {
        str(route.status): _content(references[route.result_type], "Answer"),
        "400": _content(error, "A field is wrong"),
        "503": _content(error, "No scheduler leads at this moment; see Retry-After"),
    }
    if "{id}" in route.path:
        operation["responses"]["404"] = _content(error, "There is none of that id")


def _content(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
