"""How the next token is chosen. One struct, shared by every way in and by the engine."""

import msgspec

from .errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
SEED_BITS = 63


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling parameters; the defaults are OpenAI's.

    `max_tokens` None means: up to the model's context. `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are
    off. `seed` None is replaced by a random one at the way in, so that every request can be resumed on another
    worker with its random stream intact. `logprobs` None is off; k gives the chosen token's log probability and
    the k most likely ones.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = msgspec.field(default_factory=list)
    stop_token_ids: list[int] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    logprobs: int | None = None

    def verify(self) -> None:
        """Check ranges.

        Raises:
            InvalidRequest: naming the field (`param`) and what it may be.
        """
        if not 0.0 <= self.temperature <= 2.0:
            raise _outside("temperature", self.temperature, "at least 0 and at most 2")
        if not 0.0 < self.top_p <= 1.0:
            raise _outside("top_p", self.top_p, "greater than 0 and at most 1")
        if not 0.0 <= self.min_p <= 1.0:
            raise _outside("min_p", self.min_p, "at least 0 and at most 1")
        if not -2.0 <= self.presence_penalty <= 2.0:
            raise _outside("presence_penalty", self.presence_penalty, "at least -2 and at most 2")
        if not -2.0 <= self.frequency_penalty <= 2.0:
            raise _outside("frequency_penalty", self.frequency_penalty, "at least -2 and at most 2")
        if not 0.0 < self.repetition_penalty <= 10.0:
            raise _outside("repetition_penalty", self.repetition_penalty, "greater than 0 and at most 10")
        if self.top_k < 0:
            raise InvalidRequest("top_k must be 0 (off) or greater", param="top_k")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
        if self.min_tokens < 0:
            raise InvalidRequest("min_tokens must be at least 0", param="min_tokens")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest("min_tokens must not exceed max_tokens", param="min_tokens")
        if self.seed is not None and not -(1 << SEED_BITS) <= self.seed < 1 << SEED_BITS:
            raise InvalidRequest("seed must fit in 64 bits", param="seed")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(f"logprobs must be between 0 and {MAX_LOGPROBS}", param="logprobs")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"at most {MAX_STOP_STRINGS} stop strings are allowed", param="stop")
        if self.stop and any(not s for s in self.stop):
            raise InvalidRequest("a stop string must not be empty", param="stop")


def _outside(name: str, value: float, bounds: str) -> InvalidRequest:
    return InvalidRequest(f"{name} must be {bounds}; got {value}", param=name)
