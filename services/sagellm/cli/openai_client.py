"""A small client of any OpenAI-compatible server: for people at terminals, not for load."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import msgspec

from sagellm_schemas import EngineError, InvalidRequest, Unavailable

CONNECT_TIMEOUT_S = 5.0


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    error: _Error | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class OpenAIClient:
    """Models and streamed chats of the server at `url`. Answers may take as long as they like."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            InvalidRequest: `url` is not a URL.
        """
        self.url = url.rstrip("/")
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            )
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{url} is not a URL: {error}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether the server says that it can answer."""
        try:
            return (await self._http.get("/ready")).is_success
        except httpx.TransportError:
            return False

    async def models(self) -> list[str]:
        """Names of the models it serves, and behind them those of their adapters.

        Raises:
            Unavailable: nothing usable answers there.
        """
        try:
            answer = await self._http.get("/v1/models")
            answer.raise_for_status()
            found = msgspec.json.decode(answer.content, type=_Models).data
            return [model.id for model in sorted(found, key=lambda model: model.parent is not None)]
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise self._unavailable(error) from None

    async def chat(self, model: str, messages: Sequence[dict[str, str]], **parameters: Any) -> AsyncIterator[str]:
        """The answer's text, piece by piece as it comes. `parameters` are further fields of the body.

        Raises:
            Unavailable: nothing usable answers, or the connection broke off.
            InvalidRequest: the server refuses; the message is its own.
            EngineError: the server failed within the answer; the message is its own.
        """
        body = {"model": model, "messages": list(messages), "stream": True, **parameters}
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.is_error:
                    raise InvalidRequest(_said(await answer.aread()) or f"HTTP {answer.status_code}")
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        for piece in _pieces(line.removeprefix("data: ")):
                            yield piece
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> Unavailable:
        reason = str(error) or type(error).__name__
        return Unavailable(
            f"{self.url} does not answer as an OpenAI server ({reason}); start one with `sagellm up`"
        )


def _pieces(data: str) -> list[str]:
    chunk = msgspec.json.decode(data, type=_Chunk)
    if chunk.error is not None:
        raise EngineError(chunk.error.message)
    return [choice.delta.content for choice in chunk.choices if choice.delta.content]


def _said(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body, type=_Chunk)
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace")
    return found.error.message if found.error else ""
