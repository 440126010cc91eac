"""The requests a leader answers for: one record each, from its arrival to its terminal event."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from sagellm_schemas import ErrorBody, InferenceRequest, RequestStatus

REMEMBERED = 100_000
CHARACTERS_PER_TOKEN = 4


def prompt_tokens(request: InferenceRequest) -> int:
    """Tokens of the prompt; of a text about as many as it usually has, at least 1."""
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    characters = len(request.prompt or "")
    for message in request.messages or ():
        content = message.content
        if isinstance(content, list):
            characters += sum(len(str(part.get("text", ""))) for part in content)
        else:
            characters += len(content or "")
    return max(1, characters // CHARACTERS_PER_TOKEN)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has changed of a request; unset is as it was sent."""

    priority: int | UnsetType = UNSET
    ttft_slo_ms: float | UnsetType | None = UNSET
    slo_deadline_ms: float | UnsetType | None = UNSET

    def given(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}


@dataclass(slots=True, eq=False)
class TrackedRequest:
    """One request and where it stands.

    `status` is PENDING (neither waiting nor running: its reader is being asked what it holds), QUEUED or RUNNING.
    `sequence` is its place in the durable queue; `ack_subject` is empty until the queue's consumer has brought it.
    `attempt` is the last attempt dispatched, 0 before the first. `prompt_tokens` is estimated where the prompt is
    text. `charged_tokens` of its answer are accounted for; `reserved_tokens` of its model's and user's rates are
    held for it. `preemptions` counts how often it was preempted; with `made_room` another was, so that it can run.
    `first_token_s` and `left_s`, when its latest attempt ended (Unix seconds, 0 before they are known), and
    `late_gaps`, of its outputs, are for metrics.
    `changes`, an operator's, are in `request` already.
    """

    request: InferenceRequest
    sequence: int
    ack_subject: str
    reply_format: str
    priority: int
    arrival_s: float
    status: RequestStatus = RequestStatus.PENDING
    attempt: int = 0
    failures: int = 0
    returns: int = 0
    errors: list[ErrorBody] = field(default_factory=list)
    resume_token_ids: list[int] = field(default_factory=list)
    instance: str = ""
    dispatched_s: float = 0.0
    cancelled: bool = False
    first_token_s: float = 0.0
    left_s: float = 0.0
    late_gaps: int = 0
    prompt_tokens: int = 0
    charged_tokens: int = 0
    reserved_tokens: int = 0
    preemptions: int = 0
    made_room: bool = False
    changes: Changes | None = None

    def __post_init__(self) -> None:
        self.prompt_tokens = prompt_tokens(self.request)

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def recorded(self) -> bool:
        """Whether the attempts bucket knows of it."""
        return self.failures + self.returns > 0 or self.changes is not None

    def change(self, changes: Changes) -> None:
        """Let it ask for something else, beside what was changed before."""
        self.request = msgspec.structs.replace(self.request, **changes.given())
        if changes.priority is not UNSET:
            self.priority = changes.priority
        self.changes = msgspec.structs.replace(self.changes or changes, **changes.given())

    def next_attempt(self, term: int) -> int:
        """The attempt of its next dispatch: greater than every earlier one, under this leader and the ones before.

        `failures` and `returns` are stored before each dispatch after the first, and every leader has a new term.
        """
        return max(term + self.failures + self.returns, self.attempt + 1)


class RequestTable:
    """Every request that has not ended, by id and by sequence; and of those that ended lately, their sequences and
    last attempts."""

    def __init__(self) -> None:
        self._by_id: dict[str, TrackedRequest] = {}
        self._by_sequence: dict[int, TrackedRequest] = {}
        self._settled: OrderedDict[int, None] = OrderedDict()
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, request_id: str) -> TrackedRequest | None:
        """The request of that id, unless it has ended."""
        return self._by_id.get(request_id)

    def at(self, sequence: int) -> TrackedRequest | None:
        """The request at that place of the durable queue, unless it has ended."""
        return self._by_sequence.get(sequence)

    def all(self) -> list[TrackedRequest]:
        """Every request that has not ended, about in order of arrival; the list is the caller's."""
        return list(self._by_id.values())

    def holds(self, tracked: TrackedRequest) -> bool:
        """Whether this very record has not ended."""
        return self._by_sequence.get(tracked.sequence) is tracked

    def was_settled(self, sequence: int) -> bool:
        """Whether it ended lately: a message that comes again then only lacks its acknowledgement."""
        return sequence in self._settled

    def unconfirmed(self, up_to_sequence: int) -> list[TrackedRequest]:
        """Requests up to that place of the durable queue whose message its consumer has not brought."""
        return [t for t in self._by_id.values() if not t.ack_subject and t.sequence <= up_to_sequence]

    def add(self, tracked: TrackedRequest) -> None:
        """Begin to answer for a request; its id and sequence are not those of another in this table.

        Where the id was used before, attempts go on after the old ones, which workers take for ended.
        """
        tracked.attempt = self._attempts.pop(tracked.request.id, 0)
        self._by_id[tracked.request.id] = tracked
        self._by_sequence[tracked.sequence] = tracked

    def remove(self, tracked: TrackedRequest) -> None:
        """It has ended."""
        del self._by_id[tracked.request.id]
        del self._by_sequence[tracked.sequence]
        self.settled(tracked.sequence)
        self._attempts[tracked.request.id] = tracked.attempt
        if len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)

    def settled(self, sequence: int) -> None:
        """Remember that the message at `sequence` needs nothing but an acknowledgement."""
        self._settled[sequence] = None
        if len(self._settled) > REMEMBERED:
            self._settled.popitem(last=False)
