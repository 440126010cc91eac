"""Mixes: a share of a trace's requests becomes another class, with other lengths, users or wishes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sagellm_schemas import InvalidRequest, RequestPriority

from .request import NEVER_MISSED, TraceRequest

FORM = "NAME:SHARE[:INPUT[:OUTPUT]][:FIELD=VALUE…], for example long:0.1:3000:200 or batch:0.2:-:-:priority=LOW"
SLOS = ("ttft_slo_ms", "tbt_slo_ms", "slo_deadline_ms")
NUMBERS = (*SLOS, "cost_budget")
KEEP = ("", "-")


@dataclass(frozen=True, slots=True)
class Mix:
    """A class called `name`: `share` of all requests. Lengths of None stay as they are in the trace.

    `users` > 0 gives them that many users of their own. `fields` are attributes of `TraceRequest`.
    """

    name: str
    share: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    users: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


def parse_mix(text: str) -> Mix:
    """A mix from the command line.

    Raises:
        InvalidRequest: `text` is not of the form.
    """
    parts = text.split(":")
    plain = [part for part in parts if "=" not in part]
    try:
        if not 2 <= len(plain) <= 4 or parts[: len(plain)] != plain or not plain[0]:
            raise ValueError(f"it must be {FORM}")
        share = float(plain[1])
        if not 0 < share <= 1:
            raise ValueError(f"the share must be above 0 and at most 1, not {plain[1]}")
        lengths = [None if part in KEEP else _positive(part) for part in plain[2:]] + [None, None]
        fields = dict(_field(part) for part in parts[len(plain) :])
        users = fields.pop("users", 0)
        return Mix(plain[0], share, lengths[0], lengths[1], users, fields)
    except ValueError as error:
        raise InvalidRequest(f"the mix {text!r} cannot be used: {error}") from None


def apply_mixes(
    requests: Sequence[TraceRequest], mixes: Sequence[Mix], users: int, seed: int
) -> list[TraceRequest]:
    """`requests` with each one made a member of at most one mix, drawn by `seed`. Arrivals stay as they are.

    With `users` > 0, requests of no mix are given to that many users, evenly.

    Raises:
        InvalidRequest: the shares add up to more than everything.
    """
    if sum(mix.share for mix in mixes) > 1 + 1e-9:
        raise InvalidRequest("the shares of the mixes add up to more than 1")
    draw = random.Random(f"mix {seed}")
    base = Mix("", 1.0, users=users)
    return [_member(request, (*mixes, base), draw.random(), draw) for request in requests]


def _member(request: TraceRequest, mixes: Sequence[Mix], point: float, draw: random.Random) -> TraceRequest:
    for mix in mixes:
        if point < mix.share:
            changes: dict[str, Any] = {"kind": mix.name or request.kind, **mix.fields}
            if mix.input_tokens is not None:
                changes |= {"input_tokens": mix.input_tokens, "blocks": ()}
            if mix.output_tokens is not None:
                changes["output_tokens"] = mix.output_tokens
            if mix.users:
                changes["user"] = f"{mix.name or 'user'}-{draw.randrange(mix.users) + 1}"
            return replace(request, **changes)
        point -= mix.share
    return request


def _field(text: str) -> tuple[str, Any]:
    name, value = text.split("=", 1)
    if name in NUMBERS:
        if value == "none":
            return name, NEVER_MISSED if name in SLOS else None
        number = float(value)
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be a number above 0, or none")
        return name, number
    if name == "priority":
        try:
            return name, RequestPriority.parse(int(value) if value.isdigit() else value).value
        except InvalidRequest as error:
            raise ValueError(error.message) from None
    if name in ("max_tokens", "users"):
        return name, _positive(value)
    if name == "can_be_preempted":
        return name, value.lower() in ("true", "yes", "1")
    if name in ("user", "billing_tier"):
        return name, value
    known = ", ".join((*NUMBERS, "priority", "max_tokens", "users", "user", "billing_tier", "can_be_preempted"))
    raise ValueError(f"there is no field {name!r}; there are {known}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} must be at least 1")
    return number
