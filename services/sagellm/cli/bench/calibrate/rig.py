"""What is calibrated: an instance that can be given prompts, and tells when its tokens came."""

from typing import Protocol

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance is run. `max_batched_tokens` and `kv_tokens` are 0 where it does not tell."""

    name: str
    model: str
    engine: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    max_batched_tokens: int
    kv_tokens: int


class Trail(msgspec.Struct, kw_only=True):
    """One answer as it came: the time from the instance's acceptance to the first token, and after each arrival
    the time (seconds, of one clock for all trails of a run) and how many tokens there were by then."""

    first_token_ms: float = 0.0
    arrivals: list[tuple[float, int]] = msgspec.field(default_factory=list)


class Rig(Protocol):
    """An instance at hand."""

    facts: Facts

    async def run(self, prompts: list[list[int]], output_tokens: int) -> list[Trail]:
        """Send all prompts at once; each is answered with exactly so many tokens.

        Raises:
            SageError: one of them fails.
        """
        ...
