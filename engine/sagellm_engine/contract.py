"""The one contract of every engine a worker can run: sageLLM's own, a vLLM server, the mock.

    start → generate, generate, … → abort or the end of each → close

An engine reports through `emit`, which it calls on the event loop of `start`, at most once per engine step,
with the outputs of every request that step moved. So a worker can send one frame per step and reader.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from sagellm_schemas import (
    ChatMessage,
    EngineStats,
    FinishReason,
    ModelCard,
    PositionLogprobs,
    SageError,
    SamplingParams,
    Usage,
)


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to generate.

    `prompt_token_ids` is set whenever the engine's card has a tokenizer; otherwise `messages` or `prompt` is.
    `resume_token_ids` are output tokens another attempt has produced and the reader holds: they count towards
    `max_tokens`, penalties, stop strings and the random stream, and are not emitted again.

    With `tbt_slo_ms` steps that compute prompts beside this answer should end within so long after its latest
    token, as far as the engine can choose how much of a prompt a step computes.

    `adapter` is the name of a LoRA adapter that the engine has; None asks the model as it is.
    """

    id: str
    sampling: SamplingParams
    prompt_token_ids: list[int] = msgspec.field(default_factory=list)
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    resume_token_ids: list[int] = msgspec.field(default_factory=list)
    priority: int = 2
    tbt_slo_ms: float | None = None
    adapter: str | None = None


class StepOutput(msgspec.Struct, kw_only=True):
    """What one step did for one request; the request has ended when `finish_reason` or `error` is set.

    `offset` is the index of `token_ids[0]` in the answer, resumed tokens included. `usage` is set at the end.
    """

    id: str
    offset: int = 0
    token_ids: list[int] = msgspec.field(default_factory=list)
    text: str = ""
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    error: SageError | None = None


Emit = Callable[[list[StepOutput]], None]


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a started engine serves: the card, the tokenizer's `tokenizer.json` (empty if it has none), and how
    many requests it can run at once. `prefix_block_size` is that of the prefix cache in tokens, 0 where the engine
    has none or does not tell. `adapters` are the LoRA adapters that a request can choose."""

    card: ModelCard
    tokenizer_json: bytes = b""
    max_concurrent_requests: int = 1
    prefix_block_size: int = 0
    adapters: list[str] = msgspec.field(default_factory=list)


class AsyncEngine(Protocol):
    """What a worker needs of an engine. All methods are called on the event loop of `start`."""

    async def start(self, emit: Emit) -> ServedModel:
        """Load the model and begin stepping.

        Raises:
            ModelLoadError: the model cannot be loaded; one sentence says what is missing.
            OutOfMemory: weights or KV cache do not fit.
        """
        ...

    def generate(self, request: GenerateRequest) -> None:
        """Queue one request; its outputs come through `emit`.

        Raises:
            InvalidRequest: the request can never run here (over the context, bad token id, unknown adapter, …).
        """
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request and free what it holds; nothing more is emitted for it. Unknown ids are ignored."""
        ...

    def stats(self) -> EngineStats:
        """Counters and load, cheap enough for every heartbeat."""
        ...

    def prefix_changes(self) -> dict[bytes, bool]:
        """Hashes of blocks that have come into the prefix cache (True) or left it (False) since the call before.

        The first call tells of all that is there, at once or in the calls that follow. What is hashed:
        `sagellm_schemas.prefix`.
        """
        ...

    def healthy(self) -> bool:
        """Whether new requests can be expected to run now."""
        ...

    async def close(self) -> None:
        """Stop and free everything. Safe to call twice."""
        ...
