"""Bursts of long prompts into a trace: documents that come at once, as from a batch of agents or an index job."""

import random
from collections.abc import Sequence

from sagellm.simulator.traces import TraceRequest

EVERY_S = 20.0
PROMPTS = 12
INPUT_TOKENS = (3000, 8000)
OUTPUT_TOKENS = (50, 250)
SPAN_S = 1.0


def with_bursts(requests: Sequence[TraceRequest], seed: int) -> list[TraceRequest]:
    """`requests` and, every 20 s on average, 12 prompts of 3,000 to 8,000 tokens within a second, as "burst"."""
    draw = random.Random(f"bursts {seed}")
    found = list(requests)
    begins_s = EVERY_S / 2
    while begins_s < requests[-1].arrival_s:
        found += (
            TraceRequest(
                arrival_s=begins_s + draw.random() * SPAN_S,
                input_tokens=draw.randint(*INPUT_TOKENS),
                output_tokens=draw.randint(*OUTPUT_TOKENS),
                kind="burst",
            )
            for _ in range(PROMPTS)
        )
        begins_s += EVERY_S * (0.5 + draw.random())
    return sorted(found, key=lambda request: request.arrival_s)
