"""A running vLLM server: its health, its model, its tokenizer's word."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from sagellm_schemas import ModelLoadError, Unavailable

from .vllm_stream import error_from_body, parse

logger = logging.getLogger(__name__)

HEALTH_INTERVAL_S = 1.0
HEALTH_TIMEOUT_S = 10.0
LOST_AFTER_S = 60.0
"""A server that is away for longer has lost what it was streaming, even if no connection was reset."""
PATIENCE_S = 10.0
"""How often waiting for a server is mentioned in the log."""


class ServerModel(msgspec.Struct, frozen=True):
    """A model as `/v1/models` lists it; a LoRA adapter has a `parent`, the id of its model."""

    id: str
    max_model_len: int | None = None
    parent: str | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[ServerModel]


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class VllmServer:
    """HTTP to the server at `url`, over a pool of kept-alive connections."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self.client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(None, connect=HEALTH_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            transport=transport,
            trust_env=False,  # the server is a neighbour: no proxy
        )
        self.healthy = False
        self._check_now = asyncio.Event()

    async def wait_until_healthy(self) -> None:
        """Wait until the server is up: loading a model takes minutes."""
        loop = asyncio.get_running_loop()
        mention_at = loop.time()
        while not await self._is_healthy():
            if loop.time() >= mention_at:
                logger.info("waiting for vLLM at %s", self.url)
                mention_at = loop.time() + PATIENCE_S
            await asyncio.sleep(HEALTH_INTERVAL_S)
        self.healthy = True

    async def follow_health(self, lost: Callable[[], None]) -> None:
        """Keep `healthy` up to date, for ever; `lost` is called when it has not been well for `LOST_AFTER_S`."""
        loop = asyncio.get_running_loop()
        well_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._check_now.wait(), HEALTH_INTERVAL_S)
            self._check_now.clear()
            self._now_healthy(await self._is_healthy())
            if self.healthy:
                well_at = loop.time()
            elif loop.time() - well_at > LOST_AFTER_S:
                lost()

    def _now_healthy(self, healthy: bool) -> None:
        if healthy and not self.healthy:
            logger.info("vLLM at %s is back", self.url)
        elif self.healthy and not healthy:
            logger.warning("vLLM at %s is not healthy", self.url)
        self.healthy = healthy

    def suspect(self) -> None:
        """A request met a broken connection: take nothing new until the server has shown that it is well."""
        self._now_healthy(False)
        self._check_now.set()

    async def model(self, wanted: str | None) -> tuple[ServerModel, list[str]]:
        """The model named `wanted`, or else the first one, and the names of its adapters.

        Raises:
            ModelLoadError: the server lists none.
        """
        models: _Models = await self._json("GET", "/v1/models", None, _Models)
        if not models.data:
            raise ModelLoadError(f"vLLM at {self.url} lists no model")
        bases = [model for model in models.data if model.parent is None] or models.data
        chosen = next((model for model in bases if model.id == wanted), bases[0])
        return chosen, [model.id for model in models.data if model.parent is not None]

    async def tokenize(self, body: dict[str, Any]) -> list[int]:
        """The server's tokens of a prompt or messages."""
        tokens: _Tokens = await self._json("POST", "/tokenize", body, _Tokens)
        return tokens.tokens

    async def _json(self, method: str, path: str, body: dict[str, Any] | None, kind: type[Any]) -> Any:
        try:
            answer = await self.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.suspect()
            raise Unavailable(f"vLLM at {self.url} does not answer: {error or type(error).__name__}") from None
        if answer.status_code != 200:
            raise error_from_body(answer.status_code, answer.content)
        return parse(answer.content, kind)

    async def _is_healthy(self) -> bool:
        try:
            answer = await self.client.get("/health", timeout=HEALTH_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def close(self) -> None:
        """Close every connection."""
        self.healthy = False
        await self.client.aclose()
