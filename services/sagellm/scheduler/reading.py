"""From a message of the durable queue to a request that can be tracked, or to the reason why it cannot."""

import math
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from sagellm.broker import Message
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import (
    JSON,
    MSGPACK,
    Codec,
    InferenceRequest,
    InvalidRequest,
    PackedTokens,
    RequestPriority,
    SageError,
    sniff,
    subjects,
)

MAX_SUBJECT_CHARACTERS = 512
MAX_ID_CHARACTERS = 128
SEED_BITS = 63

_OWN_SUBJECT = re.compile(rf"[^$\x00-\x20*>\x7f][^\x00-\x20*>\x7f]{{0,{MAX_SUBJECT_CHARACTERS - 1}}}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a message stands in the durable queue, as its acknowledgement subject tells.

    `ordinal` counts the deliveries of this consumer from 1; `pending` messages are still to come after it.
    """

    sequence: int
    ordinal: int
    stored_s: float
    pending: int

    @classmethod
    def of(cls, ack_subject: str) -> "Delivery":
        """Parse `$JS.ACK.[domain.account.]stream.consumer.tries.sequence.ordinal.time.pending[.random]`."""
        parts = ack_subject.split(".")
        first = 5 if len(parts) == 9 else 7
        return cls(int(parts[first]), int(parts[first + 1]), int(parts[first + 2]) / 1e9, int(parts[first + 3]))


@dataclass(slots=True, eq=False)
class Rejection:
    """A message that will not become work, with all that is needed to answer it."""

    sequence: int
    ack_subject: str
    request_id: str
    reply_to: str
    reply_format: str
    model: str
    error: SageError
    tracked: TrackedRequest | None = None
    raw: bytes = b""


class Reader:
    """Reads messages of the durable queue."""

    def __init__(self) -> None:
        self._codec = Codec(InferenceRequest)

    def read(self, message: Message, delivery: Delivery) -> TrackedRequest | Rejection:
        """The request in `message`, complete: with an id, a seed, when it arrived, and where its frames go."""
        headers = message.headers
        reply_format = _format(message.data, headers)
        try:
            request = self._codec.decode(message.data, reply_format)
            request = _complete(request, headers, delivery)
            request.verify()
            _check_subjects(request, message.subject)
            return TrackedRequest(
                request=request,
                sequence=delivery.sequence,
                ack_subject=message.reply,
                reply_format=reply_format,
                priority=_number(request.priority),
                arrival_s=request.arrival_time,
            )
        except SageError as error:
            found = _salvage(message.data, reply_format)
            reply_to = _text(found.get("reply_to")) or headers.get(subjects.REPLY_TO, "")
            request_id = _text(found.get("id")) or headers.get(subjects.MESSAGE_ID, "")
            return Rejection(
                sequence=delivery.sequence,
                ack_subject=message.reply,
                request_id=request_id[:MAX_ID_CHARACTERS] or f"nats-{delivery.sequence}",
                reply_to=reply_to if _may_answer(reply_to) else "",
                reply_format=reply_format,
                model=message.subject.rpartition(".")[2][:MAX_SUBJECT_CHARACTERS],
                error=error,
                raw=message.data,
            )


def _number(priority: int | str) -> int:
    return priority if isinstance(priority, int) else RequestPriority.parse(priority).value


def _format(data: bytes, headers: dict[str, str]) -> str:
    named = headers.get(subjects.CONTENT_TYPE)
    if named is None:
        return sniff(data)
    return MSGPACK if "msgpack" in named.lower() else JSON


def _complete(request: InferenceRequest, headers: dict[str, str], delivery: Delivery) -> InferenceRequest:
    missing: dict[str, Any] = {}
    if not request.id:
        missing["id"] = headers.get(subjects.MESSAGE_ID) or f"nats-{delivery.sequence}"
    if not request.reply_to and subjects.REPLY_TO in headers:
        missing["reply_to"] = headers[subjects.REPLY_TO]
    if request.sampling.seed is None:
        missing["sampling"] = msgspec.structs.replace(request.sampling, seed=random.getrandbits(SEED_BITS))
    if math.isfinite(request.arrival_time):  # else `verify` refuses it
        arrival_s = request.arrival_s(delivery.stored_s)
        if arrival_s != request.arrival_time:
            missing["arrival_time"] = arrival_s
    if request.prompt_token_ids is not None:
        missing["prompt_token_ids"] = PackedTokens(request.prompt_token_ids)
    return msgspec.structs.replace(request, **missing) if missing else request


def _check_subjects(request: InferenceRequest, subject: str) -> None:
    if request.reply_to and not _may_answer(request.reply_to):
        raise InvalidRequest(
            f"reply_to must be a subject of your own, of at most {MAX_SUBJECT_CHARACTERS} characters",
            param="reply_to",
        )
    if subject != subjects.requests(request.model):
        raise InvalidRequest(
            f"the model is {request.model[:100]!r}, so publish to {subjects.requests(request.model)[:150]}",
            param="model",
        )


@lru_cache(maxsize=4096)
def _may_answer(reply_to: str) -> bool:
    """Whether frames may go to `reply_to`: to publish on the system's own subjects would be to act in our name."""
    if reply_to.startswith(subjects.PREFIX + "."):
        owner = subjects.owner_of(reply_to)
        return owner is not None and subjects.replies(owner) == reply_to
    return _OWN_SUBJECT.fullmatch(reply_to) is not None


def _salvage(data: bytes, content_type: str) -> dict[Any, Any]:
    """Whatever fields can be read from a message of the wrong shape."""
    try:
        found = msgspec.msgpack.decode(data) if content_type == MSGPACK else msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
