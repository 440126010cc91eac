"""From a body's fields to `SamplingParams`."""

import random

from sagellm_schemas import InvalidRequest, SamplingParams
from sagellm_schemas.sampling import MAX_LOGPROBS, SEED_BITS

from .bodies import ChatBody, GenerationBody


def sampling_params(body: GenerationBody, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    """The body's sampling parameters, with a random seed if it has none; ranges are not checked here."""
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


def chat_logprobs(body: ChatBody) -> int | None:
    """`SamplingParams.logprobs` from the two fields of a chat.

    Raises:
        InvalidRequest: `top_logprobs` is out of range, or given without `logprobs`.
    """
    if body.top_logprobs is not None:
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_LOGPROBS}", param="top_logprobs")
        if not body.logprobs and body.top_logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
