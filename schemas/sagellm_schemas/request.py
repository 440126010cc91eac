"""`InferenceRequest`: what is asked for. The same struct whichever way a request comes in."""

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from .enums import RequestPriority, RequestType
from .errors import InvalidRequest
from .sampling import SamplingParams

EARLIEST_ARRIVAL_S = 1.0
"""How long before it was stored a request may have arrived: its way into the queue takes milliseconds."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NO_SUBJECT = re.compile(r"[ \t\r\n*>]")


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation. `content` is text, or OpenAI's list of content parts (text parts only)."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """The content as one string.

        Raises:
            InvalidRequest: a content part is not text.
        """
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        pieces: list[str] = []
        for part in self.content:
            piece = part.get("text")
            if part.get("type") != "text" or not isinstance(piece, str):
                kind = part.get("type")
                raise InvalidRequest(
                    f"content parts of type {kind!r} are not supported, only 'text'", param="messages"
                )
            pieces.append(piece)
        return "".join(pieces)


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer to produce.

    Exactly one of `messages`, `prompt` and `prompt_token_ids` is given. The HTTP ingress sends token ids; a
    client that publishes straight to NATS may send any, and the worker renders and tokenizes.

    `id` (1 to 128 of `[A-Za-z0-9_-]`) makes the request idempotent; without one the `Nats-Msg-Id` header, or
    else the stream's sequence number, names it. `reply_to` is the subject for frames; with `stream` false only
    one last frame is sent. Times are Unix seconds, SLOs milliseconds from `arrival_time`, `cost_budget` is in
    the currency of the instances' prices.

    `arrival_time` may be left out: then it is when the durable queue stored the message. One that is given counts
    if it is at most a second before that (`EARLIEST_ARRIVAL_S`); what lies further back, or after it, is moved to
    the nearest time that does. So nobody goes before others by claiming to have come first.

    `adapter` names a LoRA adapter of the model; without one it answers as it is.
    """

    model: str
    id: str = ""
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    sampling: SamplingParams = SamplingParams()
    stream: bool = True
    reply_to: str = ""

    priority: int | str = RequestPriority.NORMAL.value
    slo_deadline_ms: float | None = None
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None
    cost_budget: float | None = None
    user_id: str = ""
    billing_tier: str = "standard"
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    can_be_preempted: bool = True
    preferred_instance_id: str | None = None
    request_type: RequestType = RequestType.LLM_CHAT
    arrival_time: float = 0.0
    adapter: str | None = None

    def arrival_s(self, stored_s: float) -> float:
        """When it arrived, in Unix seconds, if the durable queue stored it at `stored_s`."""
        if not self.arrival_time:
            return stored_s
        return min(stored_s, max(stored_s - EARLIEST_ARRIVAL_S, self.arrival_time))

    def verify(self) -> None:
        """Check everything that can be checked without the model.

        Raises:
            InvalidRequest: naming the field at fault.
        """
        if not self.model:
            raise InvalidRequest("model must be given", param="model")
        if self.adapter == "":
            raise InvalidRequest(
                "adapter must not be empty; leave it out to ask the model itself", param="adapter"
            )
        if self.id and not _ID.fullmatch(self.id):
            raise InvalidRequest("id must be 1 to 128 characters of A-Z, a-z, 0-9, _ and -", param="id")
        prompts = (self.messages, self.prompt, self.prompt_token_ids)
        if prompts.count(None) != 2 or not any(prompts):
            self._refuse_prompts()
        RequestPriority.parse(self.priority)
        limits = (self.slo_deadline_ms, self.ttft_slo_ms, self.tbt_slo_ms, self.cost_budget)
        if limits.count(None) != 4:
            self._verify_limits()
        if not math.isfinite(self.arrival_time):
            raise InvalidRequest("arrival_time must be a finite Unix time in seconds", param="arrival_time")
        if _NO_SUBJECT.search(self.reply_to):
            raise InvalidRequest("reply_to must be a plain NATS subject", param="reply_to")
        self.sampling.verify()

    def _refuse_prompts(self) -> None:
        given = [n for n in ("messages", "prompt", "prompt_token_ids") if getattr(self, n) is not None]
        if len(given) == 1:
            raise InvalidRequest(f"{given[0]} must not be empty", param=given[0])
        found = " and ".join(given) or "none of them"
        raise InvalidRequest(
            f"give exactly one of messages, prompt and prompt_token_ids; got {found}", param="prompt"
        )

    def _verify_limits(self) -> None:
        for name in ("slo_deadline_ms", "ttft_slo_ms", "tbt_slo_ms", "cost_budget"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidRequest(f"{name} must be a number greater than 0; got {value}", param=name)
