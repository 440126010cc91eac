"""Bodies to `InferenceRequest`s: one for every prompt and choice."""

import asyncio
from collections.abc import Sequence

import msgspec

from sagellm.ingress.models import Model
from sagellm.ingress.prompts import LONG_TEXT_CHARS
from sagellm_schemas import (
    ChatMessage,
    ContextLengthExceeded,
    InferenceRequest,
    InvalidRequest,
    RequestPriority,
    RequestType,
    SamplingParams,
)
from sagellm_schemas.sampling import SEED_BITS

from .bodies import ChatBody, CompletionBody, GenerationBody
from .sampling import chat_logprobs, sampling_params
from .unsupported import refuse_chat_fields, refuse_completion_fields

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for plain completions; a chat goes on to the end of the context."""

MAX_PROMPTS = 256
"""Prompts of one body; each is a request of its own in the queue."""

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
    refuse_chat_fields(body)
    if not body.messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    for index, message in enumerate(body.messages):
        if message.role not in _ROLES:
            raise InvalidRequest(
                f"messages[{index}].role must be one of {', '.join(sorted(_ROLES))}; got {message.role!r}",
                param=f"messages[{index}].role",
            )
    if body.max_completion_tokens is not None and body.max_completion_tokens < 1:
        raise InvalidRequest("max_completion_tokens must be at least 1", param="max_completion_tokens")
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    sampling = sampling_params(body, max_tokens, chat_logprobs(body))
    if model.tokenizer is None or model.encoder is None:
        prompt = Prompt(messages=body.messages)
    else:
        prompt = Prompt(token_ids=await model.encoder.encode(model.tokenizer.render(body.messages)))
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
    refuse_completion_fields(body)
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = sampling_params(body, max_tokens, body.logprobs)
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
    if len(prompt) <= LONG_TEXT_CHARS:
        return Prompt(token_ids=model.tokenizer.encode(prompt))
    return Prompt(token_ids=await asyncio.to_thread(model.tokenizer.encode, prompt))


def _split(prompt: str | list[str | int | list[int]]) -> Sequence[str | list[int]]:
    """OpenAI's four forms of a prompt as a list of texts and token lists."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int):
        raise InvalidRequest(f"at most {MAX_PROMPTS} prompts may be sent at once", param="prompt")
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
    made: list[InferenceRequest] = []
    for prompt in prompts:
        _check_length(prompt, sampling, model, param)
        request = InferenceRequest(
            model=model.base,
            adapter=model.adapter,
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
            _verify(request)
        made.extend(
            [request] if len(prompts) * choices == 1 else _numbered(request, request_id, len(made), choices)
        )
    return made


def _verify(request: InferenceRequest) -> None:
    """`request.verify()`, without looking at the fields that are ours, or not there in most requests."""
    slos = (request.slo_deadline_ms, request.ttft_slo_ms, request.tbt_slo_ms, request.cost_budget)
    if slos == (None, None, None, None):
        request.sampling.verify()
    else:
        request.verify()


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


def _tags(tags: dict[str, str] | list[str] | None) -> dict[str, str]:
    if not tags:
        return {}
    return tags if isinstance(tags, dict) else dict.fromkeys(tags, "")
