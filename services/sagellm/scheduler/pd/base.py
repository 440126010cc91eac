"""What a PD policy is: whether to split a request's prefill from its decode, or to run it on one instance."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from sagellm.scheduler.requests import TrackedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is expected of a request, and of the two places it could run at. Durations are seconds.

    `prefill_wait_s` is how long its prompt would wait for the least busy prefilling instance; `decoding` is how
    many requests run at the least busy instance that would run it whole. `transfer_s` is the time to move its KV
    blocks. A `prefill_s` or `output_tokens` of 0 means that nothing is known yet.
    """

    input_tokens: int
    output_tokens: int
    prefill_s: float = 0.0
    prefill_wait_s: float = 0.0
    transfer_s: float = 0.0
    decoding: int = 0


class PdPolicy(Protocol):
    """Decides for each request, when instances for both halves are at hand. Pure."""

    name: ClassVar[str]

    def splits(self, request: TrackedRequest, prospect: Prospect) -> bool:
        """Whether prefill and decode of `request` go to different instances."""
        ...
