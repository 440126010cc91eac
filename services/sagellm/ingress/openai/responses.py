"""Whole answers as OpenAI defines them. Streamed chunks have the same shapes; they are put together as bytes."""

import msgspec

from sagellm_schemas import Usage


class CachedTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Prompt tokens found in the prefix cache."""

    cached_tokens: int = 0


class UsageDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts; a prompt with several choices counts once.

    `cost` is ours: what all choices cost, in the currency of the instances' prices; it is left out where they have
    none.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    cost: float | None = None


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate at one position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen token at one position, and the most likely ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities in the format of chat completions."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities in the format of plain completions; lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    role: str = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the `n` answers. `stop_reason` is the stop string or token id that ended it."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """Response of `POST /v1/chat/completions`."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageDocument


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; those of one prompt follow each other."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """Response of `POST /v1/completions`."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageDocument


class ModelDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One model of `GET /v1/models`, or an adapter, which has a `parent`.

    `max_model_len` counts prompt and output tokens.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str
    max_model_len: int
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Response of `GET /v1/models`."""

    object: str = "list"
    data: list[ModelDocument]


def usage_document(usages: dict[int, Usage], choices_per_prompt: int) -> UsageDocument:
    """The sum over all choices, by index; `choices_per_prompt` of them share one prompt."""
    prompts = [usage for choice, usage in usages.items() if choice % choices_per_prompt == 0]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages.values())
    return UsageDocument(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=sum(usage.cached_tokens for usage in prompts)),
        cost=sum(usage.cost for usage in usages.values()) or None,
    )
