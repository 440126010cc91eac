"""Scheduler to worker and back: `WorkItem`s, and the `WorkReport`s of what became of them."""

import msgspec

from .enums import Outcome
from .errors import ErrorBody
from .frames import Usage
from .request import InferenceRequest


class Tariff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What tokens cost at an instance, in the currency of its price per hour."""

    input_token: float
    output_token: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost of so many tokens."""
        return self.input_token * input_tokens + self.output_token * output_tokens


class WorkItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request assigned to one instance.

    `attempt` is the fencing number: it grows with every dispatch of the request, under every leader. `term`
    is the scheduler's leadership term; a worker refuses items of a term lower than the highest it has seen.
    `resume_token_ids` are output tokens that the reader already holds; generation goes on after them.
    `reply_format` is the content type of the request, and so of its frames. With a `tariff` the request's usage
    tells its cost. `paced` asks the engine to keep steps with prompts short enough for the `tbt_slo_ms` of the
    request.
    """

    request: InferenceRequest
    attempt: int = 1
    term: int = 0
    resume_token_ids: list[int] = msgspec.field(default_factory=list)
    reply_format: str = "application/msgpack"
    tariff: Tariff | None = None
    paced: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one work item ended. `error` is set when it failed, or was returned because of an error.

    Times are durations at the worker, so that no two clocks are compared: from accepting the item to its first
    output (None if it had none), from accepting it to its end, and the longest pause between two outputs.
    `late_gaps` of these pauses were longer than the request's `tbt_slo_ms`.
    """

    id: str
    attempt: int
    outcome: Outcome
    usage: Usage = Usage()
    error: ErrorBody | None = None
    first_token_ms: float | None = None
    duration_ms: float = 0.0
    longest_gap_ms: float = 0.0
    late_gaps: int = 0


class WorkReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that ended at an instance in one engine step.

    `started` are the ids of those that had their first token in it, where the instance has told the size of its
    steps (`InstanceInfo.max_batched_tokens`): the scheduler may then send other prompts.
    """

    instance: str
    ended: list[Ended]
    started: list[str] = msgspec.field(default_factory=list)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that will not be tried again, with the reasons.

    `request` is None where the message could not be decoded; `raw` then holds its first bytes.
    """

    id: str
    model: str
    errors: list[ErrorBody]
    failed_at: float
    """Unix seconds."""
    request: InferenceRequest | None = None
    raw: bytes = b""


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """Reader to everyone: stop these wherever they are."""

    ids: list[str]
