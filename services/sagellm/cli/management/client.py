"""`/v1/management` of a running ingress, for commands: each call is one request."""

from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from sagellm_schemas import ErrorBody, InvalidRequest, Unavailable, from_body

PREFIX = "/v1/management"
TIMEOUT_S = 15.0

T = TypeVar("T", bound=msgspec.Struct)


class _Detail(msgspec.Struct, frozen=True):
    message: str
    code: str | None = None
    param: str | None = None


class _Error(msgspec.Struct, frozen=True):
    error: _Detail


class ManagementClient:
    """The ingress at `url`, for as long as the context lasts."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            InvalidRequest: `url` is not a URL.
        """
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(base_url=self.url + PREFIX, timeout=TIMEOUT_S)
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{url} is not a URL: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, kind: type[T], **query: object) -> T:
        """`GET path`; parameters that are None are left out.

        Raises:
            SageError: it is refused, or nothing usable answers.
        """
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._send("GET", path, kind, params=given)

    def send(self, method: str, path: str, kind: type[T], body: dict[str, Any] | None = None) -> T:
        """Any other method.

        Raises:
            SageError: it is refused, or nothing usable answers.
        """
        return self._send(method, path, kind, **({} if body is None else {"json": body}))

    def _send(self, method: str, path: str, kind: type[T], **options: Any) -> T:
        try:
            answer = self._http.request(method, path, **options)
            if answer.is_error:
                detail = msgspec.json.decode(answer.content, type=_Error).error
                raise from_body(ErrorBody(code=detail.code or "", message=detail.message, param=detail.param))
            return msgspec.json.decode(answer.content, type=kind)
        except (httpx.HTTPError, httpx.UnsupportedProtocol, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"{self.url} does not answer as a sageLLM ingress ({str(error) or type(error).__name__}); "
                "start one with `sagellm up`, or give --url"
            ) from None


def one(collection: str, name: str) -> str:
    """The path of one request or instance."""
    return f"/{collection}/{quote(name, safe='')}"
