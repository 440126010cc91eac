"""Bodies to `InferenceRequest`s: one for every prompt and choice."""

import asyncio
import random
from collections.abc import Sequence

import msgspec

from sagellm.ingress.models import Model
from sagellm_engine import Tokenizer
from sagellm_schemas import (
    ChatMessage,
    ContextLengthExceeded,
    InferenceRequest,
    InvalidRequest,
    RequestPriority,
    RequestType,
    SamplingParams,
    UnsupportedParameter,
)
from sagellm_schemas.sampling import MAX_LOGPROBS, SEED_BITS

from .bodies import ChatBody, CompletionBody, GenerationBody

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for plain completions; a chat goes on to the end of the context."""

LONG_TEXT_CHARS = 8192
"""Tokenizing more than this takes milliseconds, so it is done in a thread."""

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))


class Prompt(msgspec.Struct, frozen=True):
    """One prompt in the form that the model's worker wants, and its text where it is to be echoed."""

    token_ids: list[int] | None = None
    text: str | None = None
    messages: list[ChatMessage] | None = None


async def chat_requests(
    body: ChatBody, model: Model, request_id: str, reply_to: str, max_choices: int
) -> list[InferenceRequest]:
    """The requests of a chat body, one for each of its `n` choices.

    Raises:
        InvalidRequest: a field is out of range, unsupported, or the conversation does not fit the context.
    """
    _refuse_chat_fields(body)
    if not body.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    for index, message in enumerate(body.messages):
        if message.role not in _ROLES:
            raise InvalidRequest(
                f"messages[{index}].role must be one of {', '.join(sorted(_ROLES))}; got {message.role!r}",
                param=f"messages[{index}].role",
            )
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    sampling = _sampling(body, max_tokens, _chat_logprobs(body))
    if model.tokenizer is None:
        prompt = Prompt(messages=body.messages)
    else:
        text = model.tokenizer.render(body.messages)
        prompt = Prompt(token_ids=await _encode(model.tokenizer, text, add_special_tokens=False))
    return _requests(
        body, [prompt], sampling, model, request_id, reply_to, max_choices, RequestType.LLM_CHAT, "messages"
    )


async def completion_requests(
    body: CompletionBody, model: Model, request_id: str, reply_to: str, max_choices: int
) -> list[InferenceRequest]:
    """The requests of a completion body: `n` for each of its prompts, in the order of the prompts.

    Raises:
        InvalidRequest: a field is out of range, unsupported, or a prompt does not fit the context.
    """
    _refuse_completion_fields(body)
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = _sampling(body, max_tokens, body.logprobs)
    prompts = [await _completion_prompt(model, prompt) for prompt in _split(body.prompt)]
    return _requests(
        body, prompts, sampling, model, request_id, reply_to, max_choices, RequestType.LLM_GENERATE, "prompt"
    )


def echo_texts(body: CompletionBody, model: Model) -> list[str]:
    """The text of each prompt of `body`, for `echo`."""
    if not body.echo:
        return []
    return [
        prompt
        if isinstance(prompt, str)
        else (model.tokenizer.decode(prompt, skip_special_tokens=False) if model.tokenizer else "")
        for prompt in _split(body.prompt)
    ]


async def _completion_prompt(model: Model, prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, list):
        limit = model.tokenizer.vocab_size if model.tokenizer else 1 << 31
        if prompt and not (min(prompt) >= 0 and max(prompt) < limit):
            raise InvalidRequest(f"prompt has token ids outside 0 to {limit - 1}", param="prompt")
        return Prompt(token_ids=prompt)
    if model.tokenizer is None:
        return Prompt(text=prompt)
    return Prompt(token_ids=await _encode(model.tokenizer, prompt, add_special_tokens=True))


def _split(prompt: str | list[str | int | list[int]]) -> Sequence[str | list[int]]:
    """OpenAI's four forms of a prompt as a list of texts and token lists."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    texts = [item for item in prompt if isinstance(item, str)]
    if len(texts) == len(prompt):
        return texts
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) == len(prompt):
        return [ids]
    lists = [item for item in prompt if isinstance(item, list)]
    if len(lists) == len(prompt):
        return lists
    raise InvalidRequest(
        "prompt must be a text, a list of texts, a list of token ids, or a list of lists of token ids",
        param="prompt",
    )


async def _encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    if len(text) <= LONG_TEXT_CHARS:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=add_special_tokens)


def _requests(
    body: GenerationBody,
    prompts: list[Prompt],
    sampling: SamplingParams,
    model: Model,
    request_id: str,
    reply_to: str,
    max_choices: int,
    request_type: RequestType,
    param: str,
) -> list[InferenceRequest]:
    choices = 1 if body.n is None else body.n
    if not 1 <= choices <= max_choices:
        raise InvalidRequest(f"n must be between 1 and {max_choices}; got {choices}", param="n")
    if len(prompts) * choices > max_choices:
        raise InvalidRequest(
            f"{len(prompts)} prompts times n={choices} are more than {max_choices} choices", param=param
        )
    made: list[InferenceRequest] = []
    for prompt in prompts:
        _check_length(prompt, sampling, model, param)
        request = InferenceRequest(
            model=model.card.name,
            id=request_id,
            messages=prompt.messages,
            prompt=prompt.text,
            prompt_token_ids=prompt.token_ids,
            sampling=sampling,
            stream=bool(body.stream),
            reply_to=reply_to,
            priority=RequestPriority.NORMAL.value
            if body.priority is None
            else RequestPriority.parse(body.priority).value,
            slo_deadline_ms=body.slo_deadline_ms,
            ttft_slo_ms=body.ttft_slo_ms,
            tbt_slo_ms=body.tbt_slo_ms,
            cost_budget=body.cost_budget,
            user_id=body.user or "",
            billing_tier=body.billing_tier or "standard",
            tags=_tags(body.tags),
            can_be_preempted=body.can_be_preempted is not False,
            request_type=request_type,
        )
        if not made:
            request.verify()
        made.extend(
            [request] if len(prompts) * choices == 1 else _numbered(request, request_id, len(made), choices)
        )
    return made


def _numbered(request: InferenceRequest, request_id: str, first: int, choices: int) -> list[InferenceRequest]:
    """`choices` copies, each with its own id and its own random stream."""
    seed = request.sampling.seed or 0
    half, whole = 1 << SEED_BITS, 1 << (SEED_BITS + 1)
    return [
        msgspec.structs.replace(
            request,
            id=f"{request_id}-{first + i}",
            sampling=msgspec.structs.replace(request.sampling, seed=(seed + i + half) % whole - half),
        )
        for i in range(choices)
    ]


def _check_length(prompt: Prompt, sampling: SamplingParams, model: Model, param: str) -> None:
    if prompt.token_ids is None:
        if prompt.text == "":
            raise InvalidRequest("prompt must not be empty", param=param)
        return
    tokens = len(prompt.token_ids)
    if tokens == 0:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    limit = model.card.max_model_len
    if tokens + (sampling.max_tokens or 1) > limit:
        wanted = (
            f"{tokens} prompt tokens and {sampling.max_tokens} output tokens"
            if sampling.max_tokens is not None
            else f"{tokens} prompt tokens and at least one output token"
        )
        raise ContextLengthExceeded(
            f"this model's context is {limit} tokens, but {wanted} were asked for; "
            f"shorten the {param} or lower max_tokens",
            param=param,
        )


def _sampling(body: GenerationBody, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    stop = body.stop
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=0 if body.top_k is None or body.top_k == -1 else body.top_k,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=random.getrandbits(SEED_BITS) if body.seed is None else body.seed,
        stop=[] if stop is None else [stop] if isinstance(stop, str) else stop,
        stop_token_ids=body.stop_token_ids or [],
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
    )


def _chat_logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None:
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_LOGPROBS}", param="top_logprobs")
        if not body.logprobs and body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _tags(tags: dict[str, str] | list[str] | None) -> dict[str, str]:
    if not tags:
        return {}
    return tags if isinstance(tags, dict) else dict.fromkeys(tags, "")


def _refuse_chat_fields(body: ChatBody) -> None:
    """What a caller would miss if it were ignored; empty values ask for nothing."""
    for name in ("tools", "functions", "audio", "prediction", "web_search_options", "logit_bias", "store"):
        if getattr(body, name):
            raise _unsupported(name)
    for name in ("tool_choice", "function_call"):
        if getattr(body, name) not in (None, "none", "auto"):
            raise _unsupported(name)
    for name in ("reasoning_effort", "verbosity"):
        if getattr(body, name) is not None:
            raise _unsupported(name)
    if body.response_format not in (None, {"type": "text"}):
        raise _unsupported("response_format", "only {'type': 'text'} is")
    if body.modalities not in (None, ["text"]):
        raise _unsupported("modalities", "only ['text'] is")


def _refuse_completion_fields(body: CompletionBody) -> None:
    if body.logit_bias:
        raise _unsupported("logit_bias")
    if body.suffix:
        raise _unsupported("suffix")
    if body.best_of not in (None, 1, body.n):
        raise _unsupported("best_of", "only a value equal to n is")
    if body.echo and body.logprobs is not None:
        raise _unsupported("echo", "not together with logprobs")


def _unsupported(name: str, detail: str = "") -> UnsupportedParameter:
    return UnsupportedParameter(f"{name} is not supported{'; ' + detail if detail else ''}", param=name)
