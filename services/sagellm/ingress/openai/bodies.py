"""Request bodies as OpenAI defines them, with our scheduling fields beside.

Every field may be null, which means its default, as with OpenAI. Fields typed `Any` are known and refused (see
`translate.py`) unless they ask for nothing; a field that is not here at all is refused by the decoder.
"""

from typing import Annotated, Any

import msgspec

from sagellm_schemas import ChatMessage

Int = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""An integer that fits every encoding on the way."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`include_usage` asks for one last chunk with the token counts."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chat and plain completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: Int | None = None
    min_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Int] | None = None
    ignore_eos: bool | None = None

    # Scheduling
    priority: Int | str | None = None
    slo_deadline_ms: float | None = None
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None
    cost_budget: float | None = None
    tags: dict[str, str] | list[str] | None = None
    can_be_preempted: bool | None = None
    billing_tier: str | None = None
    user: str | None = None

    # Accepted, and without effect here
    metadata: Any = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # Refused
    logit_bias: Any = None


class ChatBody(GenerationBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None

    # Refused
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionBody(GenerationBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/completions`."""

    prompt: str | list[str | Int | list[Int]]
    echo: bool | None = None
    logprobs: Int | None = None

    # Refused
    best_of: Any = None
    suffix: Any = None
