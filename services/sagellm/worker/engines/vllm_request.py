"""Our requests in vLLM's words."""

from typing import Any

import msgspec

from sagellm_engine.contract import GenerateRequest
from sagellm_schemas import ChatMessage

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
TOKEN_PREFIX = "token_id:"  # noqa: S105 (how vLLM writes token ids where OpenAI has texts)


def completion_body(
    model: str, request: GenerateRequest, prompt: list[int] | str, max_tokens: int | None
) -> dict[str, Any]:
    """The body for `/v1/completions`; `prompt` ends with the resumed tokens, `max_tokens` does not count them."""
    body = _common(model, request, max_tokens)
    body["prompt"] = prompt
    # Then the log probabilities name ids, which we turn into text ourselves; otherwise they name texts.
    body["return_tokens_as_token_ids"] = bool(request.prompt_token_ids)
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def chat_body(model: str, request: GenerateRequest, messages: list[ChatMessage]) -> dict[str, Any]:
    """The body for `/v1/chat/completions`."""
    body = _common(model, request, request.sampling.max_tokens)
    body["messages"] = msgspec.to_builtins(messages)
    if request.sampling.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = request.sampling.logprobs
    return body


def _common(model: str, request: GenerateRequest, max_tokens: int | None) -> dict[str, Any]:
    sampling, resumed = request.sampling, len(request.resume_token_ids)
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "max_tokens": max_tokens,  # null is up to the context; vLLM's own default for completions is 16
        "min_tokens": max(0, sampling.min_tokens - resumed),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "ignore_eos": sampling.ignore_eos,
        "stop": sampling.stop,
        "stop_token_ids": sampling.stop_token_ids,
    }
    if sampling.seed is not None:
        # vLLM draws from the start of the seed's stream: a resumed answer must not repeat its first draws.
        body["seed"] = sampling.seed + resumed if resumed else sampling.seed
    return body
