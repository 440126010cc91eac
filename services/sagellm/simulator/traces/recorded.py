"""Our own traces: what `sagellm record` writes of live traffic, one JSON object a line."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from sagellm_schemas import ChatMessage, InvalidRequest, RequestPriority

from .lines import bad_line, read_lines, token_count
from .request import TraceRequest

MARK = '"arrival_s"'
"""The field by which a line is known for one of ours."""
SLOS = ("ttft_slo_ms", "tbt_slo_ms", "slo_deadline_ms", "cost_budget")
MAX_BLOCK_TOKENS = 1 << 16

Ending = Literal["finished", "failed", "cancelled", "unknown"]


class RecordedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was served.

    `arrival_s` are Unix seconds. `output_tokens` were really generated, `cached_tokens` of the input were found
    in a prefix cache. An `outcome` is unknown where the recording ended first. `ttft_ms` and `latency_ms` are what
    the request really took, from its arrival; None where that is not known. `blocks` name the full blocks of
    `block_tokens` tokens from the prompt's start: equal names are equal tokens after equal tokens. `turn` names
    the whole prompt, and `continues` the longest earlier one that it begins with: what follows there was the
    answer. The prompt is only there if that was asked for.
    """

    arrival_s: float
    model: str = ""
    user: str = ""
    session: str = ""
    priority: str | int = RequestPriority.NORMAL.name
    billing_tier: str = "standard"
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None
    slo_deadline_ms: float | None = None
    cost_budget: float | None = None
    can_be_preempted: bool = True
    max_tokens: int | None = None
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    outcome: Ending = "finished"
    ttft_ms: float | None = None
    latency_ms: float | None = None
    block_tokens: int = 16
    blocks: list[int] = []
    turn: int | None = None
    continues: int | None = None
    prompt: str | msgspec.UnsetType = msgspec.UNSET
    messages: list[ChatMessage] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


def read_recorded(path: Path) -> list[TraceRequest]:
    """The requests that generated tokens, by arrival; `arrival_s` are Unix seconds.

    The blocks of an answer are those of the next turn, where there is one.

    Raises:
        InvalidRequest: naming the line at fault.
    """
    found = sorted(_lines(path), key=lambda pair: pair[1].arrival_s)
    asked: dict[int, int] = {}
    requests = [request for _, request in found]
    for place, (line, request) in enumerate(found):
        before = asked.get(line.continues) if line.continues is not None else None
        if before is not None:
            requests[before] = _with_answer(requests[before], request)
        if line.turn is not None:
            asked[line.turn] = place
    return requests


def _with_answer(request: TraceRequest, following: TraceRequest) -> TraceRequest:
    """`request` with the blocks of its answer, which are among those of the turn that follows."""
    known = (request.input_tokens + request.output_tokens) // request.block_tokens
    blocks = following.blocks[:known]
    goes_on = blocks[: len(request.blocks)] == request.blocks and request.block_tokens == following.block_tokens
    return replace(request, blocks=blocks) if goes_on and len(blocks) > len(request.blocks) else request


def _lines(path: Path) -> Iterator[tuple[RecordedRequest, TraceRequest]]:
    decoder = msgspec.json.Decoder(RecordedRequest)
    for number, text in read_lines(path):
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise bad_line(path, number, f"not a recorded request: {error}") from None
        found = _request(path, number, line)
        if line.output_tokens:
            yield line, found


def _request(path: Path, number: int, line: RecordedRequest) -> TraceRequest:
    if not math.isfinite(line.arrival_s):
        raise bad_line(path, number, "arrival_s must be finite Unix seconds")
    for name in SLOS:
        value = getattr(line, name)
        if value is not None and not 0 < value < math.inf:
            raise bad_line(path, number, f"{name} must be a number above 0, or null, not {value}")
    try:
        priority = RequestPriority.parse(line.priority).value
    except InvalidRequest as error:
        raise bad_line(path, number, error.message) from None
    if not 1 <= line.block_tokens <= MAX_BLOCK_TOKENS:
        raise bad_line(path, number, f"block_tokens must be from 1 to {MAX_BLOCK_TOKENS}, not {line.block_tokens}")
    if any(block < 0 for block in line.blocks):
        raise bad_line(path, number, "blocks must not be negative")
    input_tokens = token_count(path, number, "input_tokens", line.input_tokens, 1)
    output_tokens = token_count(path, number, "output_tokens", line.output_tokens, 0)
    if len(line.blocks) * line.block_tokens > input_tokens + output_tokens:
        raise bad_line(
            path, number, f"{len(line.blocks)} blocks of {line.block_tokens} are more than input and output"
        )
    if line.max_tokens is not None:
        token_count(path, number, "max_tokens", line.max_tokens, 1)
    return TraceRequest(
        arrival_s=line.arrival_s,
        input_tokens=input_tokens,
        output_tokens=max(1, output_tokens),
        model=line.model,
        user=line.user,
        session=line.session,
        billing_tier=line.billing_tier,
        priority=priority,
        ttft_slo_ms=line.ttft_slo_ms,
        tbt_slo_ms=line.tbt_slo_ms,
        slo_deadline_ms=line.slo_deadline_ms,
        cost_budget=line.cost_budget,
        max_tokens=line.max_tokens,
        can_be_preempted=line.can_be_preempted,
        blocks=tuple(line.blocks),
        block_tokens=line.block_tokens,
    )
