"""What a vLLM server streams: server-sent events with OpenAI's chunks, and its errors."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from sagellm_schemas import ContextLengthExceeded, EngineError, InvalidRequest, SageError


class Alternative(msgspec.Struct, frozen=True):
    """A token of a chat answer with its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Position(Alternative, frozen=True):
    """The chosen token of one position, and the most likely ones."""

    top_logprobs: list[Alternative] = msgspec.field(default_factory=list)


class Logprobs(msgspec.Struct, frozen=True):
    """Chat answers have `content`; completions have the three parallel lists."""

    content: list[Position] | None = None
    tokens: list[str] = msgspec.field(default_factory=list)
    token_logprobs: list[float | None] = msgspec.field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] | None = None


class Delta(msgspec.Struct, frozen=True):
    """New text of a chat answer."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The next tokens of the answer, and its end with the last ones."""

    text: str | None = None
    delta: Delta = Delta()
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def new_text(self) -> str:
        """The text, wherever it is."""
        return self.text or self.delta.content or ""


class PromptDetails(msgspec.Struct, frozen=True):
    """How many tokens of the prompt were in the prefix cache."""

    cached_tokens: int | None = None


class StreamUsage(msgspec.Struct, frozen=True):
    """Counted by the server; comes in a chunk of its own at the end."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptDetails | None = None


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error, as the body of an answer or in the middle of a stream."""

    message: str = ""
    param: str | None = None
    code: int | str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event."""

    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: StreamUsage | None = None
    error: ErrorInfo | None = None


async def chunks(lines: AsyncIterator[str]) -> AsyncGenerator[Chunk, None]:
    """The chunks of an event stream, up to its `[DONE]`.

    Raises:
        SageError: the server reports an error, or the stream ends early or cannot be read.
    """
    decoder = msgspec.json.Decoder(Chunk)
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            chunk = decoder.decode(data)
        except msgspec.DecodeError as error:
            raise EngineError(f"vLLM sent a chunk that cannot be read: {error}") from None
        if chunk.error is not None:
            raise error_of(chunk.error, _status(chunk.error))
        yield chunk
    raise EngineError("vLLM closed the stream before the answer was complete")


def error_from_body(status: int, body: bytes) -> SageError:
    """The error of an answer whose status is not 200."""
    try:
        info = msgspec.json.decode(body, type=Chunk).error
    except msgspec.DecodeError:
        info = None
    return error_of(info or ErrorInfo(message=body[:200].decode(errors="replace").strip()), status)


def error_of(info: ErrorInfo, status: int) -> SageError:
    """Our error for vLLM's, in its words: what the client did wrong is final, the rest may be tried again."""
    said = info.message or f"status {status}"
    if status in (400, 413, 422):
        too_long = "max_model_len" in said or "context length" in said
        kind = ContextLengthExceeded if too_long else InvalidRequest
        return kind(said, param=info.param)
    return EngineError(f"vLLM: {said}")


def _status(info: ErrorInfo) -> int:
    return info.code if isinstance(info.code, int) else 500


def parse(body: bytes, kind: type[Any]) -> Any:
    """A JSON answer as `kind`.

    Raises:
        EngineError: it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise EngineError(f"vLLM sent an answer that cannot be read: {error}") from None
