"""`RequestMetadata`: a request as users of the original write it, and the way to the wire's `InferenceRequest`."""

import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sagellm_schemas import (
    ChatMessage,
    InferenceRequest,
    RequestPriority,
    RequestType,
    SamplingParams,
    UnsupportedParameter,
)

from .vocabulary import ParallelismType

logger = logging.getLogger(__name__)

EMPTY_PROMPT = "\n"
"""What a request without a prompt begins with: models need at least one token."""


@dataclass(kw_only=True)
class RequestMetadata:
    """One request. Times are Unix seconds, SLOs milliseconds from the arrival.

    An LLM_CHAT prompt is one user's turn, and the model's chat template is applied; that of LLM_GENERATE is
    continued as it is. Without `request_id` one is made; without `model_name` the only registered model is meant.
    `tokens_generated` is set when the answer has ended.
    """

    request_id: str = ""
    prompt: str | None = None
    user_id: str | None = None
    priority: RequestPriority | int | str = RequestPriority.NORMAL
    slo_deadline_ms: float | None = None
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    model_name: str | None = None
    request_type: RequestType = RequestType.LLM_CHAT
    embedding_texts: list[str] | None = None
    embedding_model: str | None = None
    embedding_batch_size: int = 32
    arrival_time: float | None = None
    preferred_instance_id: str | None = None
    parallelism_hint: ParallelismType | None = None
    cost_budget: float | None = None
    billing_tier: str = "standard"
    tokens_generated: int = 0
    can_be_preempted: bool = True
    tags: Mapping[str, object] | Iterable[str] = field(default_factory=dict)


def to_wire(request: RequestMetadata, model: str, reply_to: str, preferred: str | None) -> InferenceRequest:
    """`request` for the durable queue; fills in its id and arrival where they are missing.

    Raises:
        InvalidRequest: naming the field at fault.
        UnsupportedParameter: it asks for embeddings, which no engine here makes.
    """
    if request.request_type is RequestType.EMBEDDING or request.embedding_texts is not None:
        raise UnsupportedParameter("embeddings are not supported: no engine makes them yet", param="request_type")
    request.request_id = request.request_id or f"req-{secrets.token_hex(12)}"
    request.arrival_time = time.time() if request.arrival_time is None else request.arrival_time
    if request.parallelism_hint is not None:
        logger.warning(
            "request %s: parallelism_hint has no effect; `sagellm plan` chooses the split before an engine starts",
            request.request_id,
        )
    if not request.prompt:
        logger.warning("request %s has no prompt: the model begins with an empty line", request.request_id)
    prompt = request.prompt or EMPTY_PROMPT
    chat = request.request_type is RequestType.LLM_CHAT and bool(request.prompt)
    wire = InferenceRequest(
        model=model,
        id=request.request_id,
        messages=[ChatMessage(role="user", content=prompt)] if chat else None,
        prompt=None if chat else prompt,
        sampling=SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=secrets.randbits(63),  # so that another worker can go on with the same random stream
        ),
        reply_to=reply_to,
        priority=RequestPriority.parse(request.priority).value,
        slo_deadline_ms=request.slo_deadline_ms,
        ttft_slo_ms=request.ttft_slo_ms,
        tbt_slo_ms=request.tbt_slo_ms,
        cost_budget=request.cost_budget,
        user_id=request.user_id or "",
        billing_tier=request.billing_tier,
        tags=_tags(request.tags),
        can_be_preempted=request.can_be_preempted,
        preferred_instance_id=preferred,
        request_type=request.request_type,
        arrival_time=request.arrival_time,
    )
    wire.verify()
    return wire


def _tags(tags: Mapping[str, object] | Iterable[str]) -> dict[str, str]:
    if isinstance(tags, Mapping):
        return {str(name): str(value) for name, value in tags.items()}
    return {str(name): "" for name in tags}
