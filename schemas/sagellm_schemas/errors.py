"""The one exception tree. `code` is stable: it is what clients, dead letters and metrics see.

    SageError (internal_error, 500)
    ├── InvalidRequest (invalid_request, 400)
    │   ├── ContextLengthExceeded (context_length_exceeded, 400)
    │   ├── UnsupportedParameter (unsupported_parameter, 400)
    │   ├── BudgetExceeded (budget_exceeded, 402)
    │   └── MessageTooLarge (message_too_large, 413)
    ├── NotFound (not_found, 404)
    │   └── ModelNotFound (model_not_found, 404)
    ├── QueueFull (queue_full, 429)
    ├── RateLimited (rate_limit_exceeded, 429)
    ├── Unavailable (unavailable, 503)
    │   └── BrokerError (broker_unavailable, 503)
    ├── DeadlineExceeded (deadline_exceeded, 504)
    ├── AttemptsExhausted (attempts_exhausted, 500)
    ├── EngineError (engine_error, 500)
    │   ├── ModelLoadError (model_load_error, 500)
    │   └── OutOfMemory (out_of_memory, 500)
    └── SettingsError (invalid_settings, 500)

`http_status` lives here so that HTTP and NATS cannot disagree about what a code means.
"""

from typing import ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it crosses the wire.

    `code` is one of the tree's codes; `param` names the field at fault; `retry_after_s` is set where trying
    again later may help.
    """

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class SageError(Exception):
    """Base of every error that is reported to a user."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    """Whether another worker, or the same one later, may succeed with the same request."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorBody:
        """This error for the wire."""
        return ErrorBody(code=self.code, message=self.message, param=self.param, retry_after_s=self.retry_after_s)


class InvalidRequest(SageError):
    """The request is malformed, or a field is out of range; sending it again cannot help."""

    code = "invalid_request"
    http_status = 400


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output do not fit the model's context."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """A valid OpenAI field that this server or engine does not implement."""

    code = "unsupported_parameter"


class BudgetExceeded(InvalidRequest):
    """The request's `cost_budget` does not pay for it; the message says what it would cost."""

    code = "budget_exceeded"
    http_status = 402


class MessageTooLarge(InvalidRequest):
    """The body or message is over the configured limit."""

    code = "message_too_large"
    http_status = 413


class NotFound(SageError):
    """What is asked about is not there, or no more."""

    code = "not_found"
    http_status = 404


class ModelNotFound(NotFound):
    """No worker has ever served this model."""

    code = "model_not_found"


class QueueFull(SageError):
    """As much waits as may: in all, of this model, or of this user. Try again after `retry_after_s`."""

    code = "queue_full"
    http_status = 429


class RateLimited(SageError):
    """More within a minute than this model or this user may ask for; try again after `retry_after_s`."""

    code = "rate_limit_exceeded"
    http_status = 429


class Unavailable(SageError):
    """A part of the pipeline is not there at the moment."""

    code = "unavailable"
    http_status = 503
    retryable = True


class BrokerError(Unavailable):
    """NATS is missing, misconfigured, or refused an operation."""

    code = "broker_unavailable"


class DeadlineExceeded(SageError):
    """The request's deadline passed before it could finish."""

    code = "deadline_exceeded"
    http_status = 504


class AttemptsExhausted(SageError):
    """Every attempt failed; the request is in the dead letters."""

    code = "attempts_exhausted"


class EngineError(SageError):
    """The engine failed on this request."""

    code = "engine_error"
    retryable = True


class ModelLoadError(EngineError):
    """A model cannot be loaded; the message says what is missing."""

    code = "model_load_error"
    retryable = False


class OutOfMemory(EngineError):
    """Weights or KV cache do not fit; the message says how much there is and what to lower."""

    code = "out_of_memory"
    retryable = False


class SettingsError(SageError):
    """A setting is missing or wrong; the message names it."""

    code = "invalid_settings"


def _tree(root: type[SageError]) -> dict[str, type[SageError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_types() -> dict[str, type[SageError]]:
    """Code to exception type, for the whole tree."""
    return _tree(SageError)


def from_body(body: ErrorBody) -> SageError:
    """The exception that `body` describes; an unknown code becomes a plain `SageError`."""
    kind = error_types().get(body.code, SageError)
    return kind(body.message, param=body.param, retry_after_s=body.retry_after_s)
