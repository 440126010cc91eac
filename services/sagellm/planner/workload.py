"""What is to be served: lengths, rate, latency goals, and the engine's limits."""

import math

import msgspec

from sagellm_schemas import InvalidRequest


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Mean lengths in tokens, and what must hold. None and 0 mean: not asked for.

    `rate_per_s` is of requests, `concurrency` of requests at once. `context_tokens` is the longest request that
    must fit, prompt and answer together. `step_tokens` is the engine's largest step, `max_seqs` the most requests
    that one replica's engine runs at once.
    """

    input_tokens: int = 1024
    output_tokens: int = 256
    rate_per_s: float = 0.0
    concurrency: int = 1
    context_tokens: int = 8192
    ttft_slo_ms: float | None = None
    tpot_slo_ms: float | None = None
    step_tokens: int = 8192
    max_seqs: int = 256

    @property
    def mean_context_tokens(self) -> float:
        """Of a request that is being decoded, half of its answer is there on average."""
        return self.input_tokens + self.output_tokens / 2

    @property
    def request_tokens(self) -> int:
        """Of a whole request."""
        return self.input_tokens + self.output_tokens

    def verify(self) -> None:
        """Check ranges.

        Raises:
            InvalidRequest: naming the field.
        """
        for name in ("input_tokens", "output_tokens", "context_tokens", "step_tokens", "max_seqs", "concurrency"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} must be at least 1; got {getattr(self, name)}", param=name)
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s >= 0):
            raise InvalidRequest(
                f"rate must be 0 or more requests per second; got {self.rate_per_s}", param="rate"
            )
        for name in ("ttft_slo_ms", "tpot_slo_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidRequest(f"{name} must be a number greater than 0; got {value}", param=name)
        if self.request_tokens > self.context_tokens:
            raise InvalidRequest(
                f"the context of {self.context_tokens} tokens is shorter than the expected {self.input_tokens} "
                f"input and {self.output_tokens} output tokens",
                param="context",
            )
