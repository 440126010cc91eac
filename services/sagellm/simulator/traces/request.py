"""One request of a trace: what arrives when, and what it will turn out to need."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from sagellm_schemas import RequestPriority

TOKEN_IDS = 1 << 31
"""Token ids are hashed as signed 32-bit integers."""

NEVER_MISSED = math.inf
"""An SLO that is none, and stays none where the scenario has one for those that say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """`arrival_s` counts from the trace's start. `output_tokens` is the truth that no policy may see.

    `kind` is the class under which it is reported. `blocks` name pieces of `block_tokens` tokens from the prompt's
    start, as far as they are known; equal names are equal tokens. They may go on into the answer, as in a
    conversation whose next turn repeats it. An SLO of None
    is what the scenario says, or none.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    kind: str = "chat"
    model: str = ""
    user: str = ""
    session: str = ""
    billing_tier: str = "standard"
    priority: int = RequestPriority.NORMAL.value
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None
    slo_deadline_ms: float | None = None
    cost_budget: float | None = None
    max_tokens: int | None = None
    can_be_preempted: bool = True
    blocks: tuple[int, ...] = ()
    block_tokens: int = 16

    def token_ids(self, base: int) -> Sequence[int]:
        """Stand-ins for the prompt's token ids, and the answer's as far as `blocks` tell them.

        Where no block is named they are negative and count down from `-base`: no other request has them, as long
        as bases are further apart than prompts are long. A range takes no memory.
        """
        unnamed = self.input_tokens - len(self.blocks) * self.block_tokens
        start = -1 - base % (TOKEN_IDS >> 1)
        rest = range(start, start - max(0, unnamed), -1)
        if not self.blocks:
            return rest
        named = array("i")
        for block in self.blocks:
            first = block * self.block_tokens % (TOKEN_IDS - self.block_tokens)
            named.extend(range(first, first + self.block_tokens))
        named.extend(rest)
        return named
