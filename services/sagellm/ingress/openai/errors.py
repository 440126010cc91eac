"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

import math

import msgspec

from sagellm_schemas import SageError
from sagellm_schemas.errors import ErrorBody, error_types

CANCELLED = ErrorBody(code="cancelled", message="the request was cancelled by an operator")
CANCELLED_STATUS = 499

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """`code` is stable; `param` names the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every response that is not a success."""

    error: ErrorDetail


class HttpError(msgspec.Struct, frozen=True, kw_only=True):
    """An error ready to be sent; `headers` beside those of every JSON response."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def document(status: int, message: str, *, code: str, param: str | None = None) -> bytes:
    """The JSON of one error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return msgspec.json.encode(
        ErrorDocument(error=ErrorDetail(message=message, type=kind, param=param, code=code))
    )


def http_error(error: ErrorBody) -> HttpError:
    """The response for an error of the tree."""
    status = status_of(error.code)
    body = document(status, error.message, code=error.code, param=error.param)
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    elif status >= CANCELLED_STATUS and not error_types().get(error.code, SageError).retryable:
        # OpenAI's clients try a 5xx again by themselves; what has failed every attempt here would fail again.
        headers.append((b"x-should-retry", b"false"))
    return HttpError(status=status, body=body, headers=headers)


def status_of(code: str) -> int:
    """The HTTP status of an error code."""
    if code == CANCELLED.code:
        return CANCELLED_STATUS
    return error_types().get(code, SageError).http_status


def event(error: ErrorBody) -> bytes:
    """The error as a server-sent event, for a stream that has begun."""
    body = document(status_of(error.code), error.message, code=error.code, param=error.param)
    return b"data: " + body + b"\n\n"
