"""What readers receive: `Frame`s of events on the request's reply subject.

For each request a reader sees `Tokens` events and then exactly one of `Finished`, `Failed` and `Cancelled`.
`attempt` grows whenever a request is dispatched again. A reader keeps the highest attempt it has seen and
drops events of lower ones. `offset` counts output tokens from the start of the answer, so a reader that starts
over with a higher attempt truncates what it holds to `offset` and goes on.
"""

import msgspec

from .enums import FinishReason
from .errors import ErrorBody


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens read, written, and found in the prefix cache. `cost` is in the currency of the instances' prices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token, its text, and its natural-log probability under the unmodified distribution."""

    token_id: int
    token: str
    logprob: float
    bytes: list[int] = msgspec.field(default_factory=list)


class PositionLogprobs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The chosen token of one position and the most likely alternatives, best first."""

    chosen: TokenLogprob
    top: list[TokenLogprob] = msgspec.field(default_factory=list)


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tokens"):
    """Output tokens `offset` … `offset + len(token_ids)` and the text that became final with them.

    `text` may lag behind `token_ids`: a character is sent whole, and what may become a stop string is held
    back. It depends only on the tokens so far, so two attempts that hold the same tokens have sent the same
    text.
    """

    id: str
    attempt: int = 1
    offset: int = 0
    token_ids: list[int] = msgspec.field(default_factory=list)
    text: str = ""
    logprobs: list[PositionLogprobs] | None = None


class Finished(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="finished"):
    """The answer is complete. `stop_reason` is the stop string or token id that ended it, if one did."""

    id: str
    attempt: int = 1
    finish_reason: FinishReason = FinishReason.STOP
    stop_reason: str | int | None = None
    usage: Usage = Usage()


class Failed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="failed"):
    """The request ended with an error."""

    id: str
    error: ErrorBody
    attempt: int = 1


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="cancelled"):
    """The request was cancelled by its reader or an operator."""

    id: str
    attempt: int = 1


Event = Tokens | Finished | Failed | Cancelled
Terminal = Finished | Failed | Cancelled


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The events of one engine step for one reader. `instance` is the worker; empty from the scheduler."""

    events: list[Event]
    instance: str = ""


class HeldQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Scheduler to reader: "what do you hold of these?" From then on the reader drops lower attempts.

    `attempts` maps each request id to the attempt that will be dispatched next.
    """

    attempts: dict[str, int]


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a reader holds of one request: its output tokens so far."""

    token_ids: list[int] = msgspec.field(default_factory=list)


class HeldReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `HeldQuery`. An id that is missing is no longer wanted: ended, or its client has gone."""

    held: dict[str, Held]
