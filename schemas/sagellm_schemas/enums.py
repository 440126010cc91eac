"""The scheduling vocabulary: names and values that users know from the original control plane."""

from enum import IntEnum, StrEnum

from .errors import InvalidRequest


class RequestPriority(IntEnum):
    """Lower runs first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4

    @classmethod
    def parse(cls, value: int | str) -> "RequestPriority":
        """A priority from its number or its name in any case.

        Raises:
            InvalidRequest: `value` is neither.
        """
        try:
            return cls[value.upper()] if isinstance(value, str) else cls(value)
        except (KeyError, ValueError):
            names = ", ".join(f"{p.name} ({p.value})" for p in cls)
            raise InvalidRequest(f"priority must be one of {names}; got {value!r}", param="priority") from None


class RequestStatus(StrEnum):
    """Where a request is in its life."""

    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestType(StrEnum):
    """What is asked for."""

    LLM_CHAT = "llm_chat"
    LLM_GENERATE = "llm_generate"
    EMBEDDING = "embedding"


class InstanceRole(StrEnum):
    """What an instance does; the names of the original's ExecutionInstanceType."""

    GENERAL = "general"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HYBRID = "hybrid"
    EMBEDDING = "embedding"


class EngineState(StrEnum):
    """Life of an instance. Only READY takes new work."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    ERROR = "error"


class FinishReason(StrEnum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class Outcome(StrEnum):
    """How a work item ended at its worker."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETURNED = "returned"
    """Handed back unfinished (drain, preemption, a retryable error): to be dispatched again."""
