"""The vLLM engine: requests are streamed from a running vLLM's OpenAI server."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator

import httpx
import msgspec

from sagellm.settings import Settings
from sagellm_engine.contract import Emit, GenerateRequest, ServedModel, StepOutput
from sagellm_schemas import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    InvalidRequest,
    ModelCard,
    ModelLoadError,
    SageError,
    Unavailable,
)

from .vllm_answer import DecodedAnswer, TextAnswer, VllmAnswer
from .vllm_request import CHAT, COMPLETIONS, chat_body, completion_body
from .vllm_server import VllmServer
from .vllm_stream import Chunk, StreamUsage, chunks, error_from_body
from .vllm_tokenizer import LocalTokenizer, find_tokenizer

logger = logging.getLogger(__name__)


class VllmEngine:
    """An `AsyncEngine` in front of the server at `settings.vllm_url`.

    Where the model's files are at hand, prompts are sent and answers read as token ids; otherwise the server
    renders, tokenizes and decodes. Chunks that arrive in one turn of the event loop are emitted together.
    """

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport` replaces the network."""
        self._settings = settings
        self._transport = transport
        self._server: VllmServer | None = None
        self._health: asyncio.Task[None] | None = None
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._outputs: list[StepOutput] = []
        self._local: LocalTokenizer | None = None
        self._steps_total = self._prompt_tokens_total = self._cached_tokens_total = self._output_tokens_total = 0

    async def start(self, emit: Emit) -> ServedModel:
        """Wait for the server, however long it takes to load, and learn what it serves; see `AsyncEngine`."""
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        server = self._server = VllmServer(self._settings.vllm_url, self._transport)
        await server.wait_until_healthy()
        model, self._adapters = await server.model(self._settings.served_name)
        self._model = model.id
        self._max_model_len = model.max_model_len or self._settings.max_model_len or 0
        if not self._max_model_len:
            raise ModelLoadError(
                f"vLLM at {server.url} does not say how long its context is; set SAGELLM_MAX_MODEL_LEN"
            )
        self._local = await find_tokenizer(self._settings, server, model.id)
        self._health = asyncio.create_task(server.follow_health(self._lost), name="vLLM health")
        card = self._local.card if self._local else ModelCard(name="", max_model_len=0, created=int(time.time()))
        return ServedModel(
            card=msgspec.structs.replace(
                card,
                name=self._settings.served_name or model.id,
                max_model_len=self._max_model_len,
                owned_by="vllm",
            ),
            tokenizer_json=self._local.tokenizer_json if self._local else b"",
            max_concurrent_requests=self._settings.max_num_seqs,
            adapters=self._adapters,
        )

    def generate(self, request: GenerateRequest) -> None:
        """See `AsyncEngine`. What the server finds wrong with the request comes as an error through `emit`."""
        if request.adapter is not None and request.adapter not in self._adapters:
            raise InvalidRequest(
                f"vLLM at {self._settings.vllm_url} has no adapter {request.adapter!r}", param="adapter"
            )
        answer: VllmAnswer = self._decoded(request, self._local) if self._local else TextAnswer(request)
        task = asyncio.create_task(self._run(request, answer), name=f"vLLM stream {request.id}")
        self._streams[request.id] = task

    def abort(self, request_id: str) -> None:
        """See `AsyncEngine`. Closing the stream makes the server cancel the request."""
        task = self._streams.pop(request_id, None)
        if task is not None:
            task.cancel()
            self._outputs = [output for output in self._outputs if output.id != request_id]

    def stats(self) -> EngineStats:
        """See `AsyncEngine`."""
        return EngineStats(
            running=len(self._streams),
            steps_total=self._steps_total,
            prompt_tokens_total=self._prompt_tokens_total,
            cached_tokens_total=self._cached_tokens_total,
            output_tokens_total=self._output_tokens_total,
        )

    def prefix_changes(self) -> dict[bytes, bool]:
        """The server does not tell."""
        return {}

    def healthy(self) -> bool:
        """See `AsyncEngine`."""
        return self._server is not None and self._server.healthy

    async def close(self) -> None:
        """See `AsyncEngine`."""
        tasks = [*self._streams.values(), *([self._health] if self._health else [])]
        self._streams.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.close()

    def _decoded(self, request: GenerateRequest, local: LocalTokenizer) -> DecodedAnswer:
        room = self._max_model_len - len(request.prompt_token_ids)
        if room < 1:
            raise ContextLengthExceeded(
                f"the prompt has {len(request.prompt_token_ids)} tokens; the context holds {self._max_model_len}",
                param="prompt",
            )
        max_tokens = request.sampling.max_tokens or room
        return DecodedAnswer(request, local.tokenizer, local.card.eos_token_ids, max_tokens)

    async def _run(self, request: GenerateRequest, answer: VllmAnswer) -> None:
        """Stream one answer to its end."""
        try:
            last = answer.end(await self._follow(request, answer))
        except SageError as error:
            last = StepOutput(id=request.id, error=error)
        except Exception as error:
            logger.exception("request %s failed", request.id)
            last = StepOutput(id=request.id, error=EngineError(f"the vLLM stream failed: {type(error).__name__}"))
        if self._streams.pop(request.id, None) is not None:
            self._put(last)

    async def _follow(self, request: GenerateRequest, answer: VllmAnswer) -> StreamUsage:
        """Put what the server streams into `answer` and out again; returns the server's count."""
        usage, server_ended = StreamUsage(), False
        if answer.complete:
            return usage
        async with contextlib.aclosing(self._stream(request)) as stream:
            async for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    server_ended |= choice.finish_reason is not None
                    output = answer.push(choice)
                    if output is not None:
                        self._put(output)
                if answer.complete and not server_ended:
                    break  # it would go on: closing the stream makes it cancel
        return usage

    async def _stream(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The server's chunks for `request`.

        Raises:
            SageError: the server refuses it, fails, or cannot be reached.
        """
        assert self._server is not None, "the engine was not started"
        path, body = await self._request(request)
        try:
            async with self._server.client.stream("POST", path, json=body) as answer:
                if answer.status_code != 200:
                    raise error_from_body(answer.status_code, await answer.aread())
                async with contextlib.aclosing(chunks(answer.aiter_lines())) as events:
                    async for chunk in events:
                        yield chunk
        except httpx.HTTPError as error:
            self._server.suspect()
            raise Unavailable(
                f"the connection to vLLM at {self._server.url} was lost: {error or type(error).__name__}"
            ) from None

    async def _request(self, request: GenerateRequest) -> tuple[str, dict[str, object]]:
        """Path and body that ask the server for the rest of the answer."""
        prompt, resumed = request.prompt_token_ids, request.resume_token_ids
        if not prompt and resumed:
            prompt = await self._their_tokens(request)
        if prompt or request.prompt is not None:
            max_tokens = request.sampling.max_tokens
            if max_tokens is not None:
                max_tokens -= len(resumed)
            text_or_ids = prompt + resumed if prompt else request.prompt or ""
            return COMPLETIONS, completion_body(request.adapter or self._model, request, text_or_ids, max_tokens)
        return CHAT, chat_body(request.adapter or self._model, request, request.messages or [])

    async def _their_tokens(self, request: GenerateRequest) -> list[int]:
        """The server's own tokens of the prompt, to which resumed tokens can be added."""
        assert self._server is not None
        if request.messages is not None:
            return await self._server.tokenize(
                {"model": request.adapter or self._model, "messages": msgspec.to_builtins(request.messages)}
            )
        return await self._server.tokenize(
            {"model": request.adapter or self._model, "prompt": request.prompt or ""}
        )

    def _lost(self) -> None:
        """The server has been away for long: streams that still seem to be open will bring nothing more."""
        assert self._server is not None
        error = Unavailable(f"vLLM at {self._server.url} does not answer any more")
        for request_id in list(self._streams):
            self.abort(request_id)
            self._put(StepOutput(id=request_id, error=error))

    def _put(self, output: StepOutput) -> None:
        if not self._outputs:
            self._loop.call_soon(self._flush)
        self._outputs.append(output)

    def _flush(self) -> None:
        outputs, self._outputs = self._outputs, []
        if not outputs:
            return  # aborted in the meantime
        self._steps_total += 1
        for output in outputs:
            self._output_tokens_total += len(output.token_ids)
            if output.usage is not None:
                self._prompt_tokens_total += output.usage.prompt_tokens
                self._cached_tokens_total += output.usage.cached_tokens
        self._emit(outputs)
