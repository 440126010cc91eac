"""Multi-turn chats made of the lengths of a trace of single requests: every turn repeats what was said before."""

import random
from collections.abc import Sequence
from itertools import count

from sagellm.simulator.traces import TraceRequest

BLOCK_TOKENS = 16
SYSTEM_PROMPTS = 6
SYSTEM_TOKENS = (200, 1500)
GOES_ON = 0.8
"""Chance of another turn: five turns on average."""
THINK_S = 30.0
"""Mean pause between an answer and the next message."""
TOKEN_S = 0.03
"""How long the reader is taken to wait for a token of the answer before he thinks."""
OPENING = 2
FOLLOW_UP = 4
"""What a message has of a prompt of the trace: the first one half, later ones a quarter; the rest of it would have
been system prompt and history."""
LONGEST_TOKENS = 16_000


def conversations(
    lengths: Sequence[TraceRequest], seed: int, chats_per_s: float, duration_s: float
) -> list[TraceRequest]:
    """Requests of `duration_s` of chats that begin at random times, each with one of six system prompts."""
    draw = random.Random(f"conversations {seed}")
    names = count(1)
    systems = [
        [next(names) for _ in range(draw.randint(*SYSTEM_TOKENS) // BLOCK_TOKENS)] for _ in range(SYSTEM_PROMPTS)
    ]
    found: list[TraceRequest] = []
    begins_s = draw.expovariate(chats_per_s)
    for chat in count(1):
        if begins_s >= duration_s:
            break
        found += _turns(lengths, draw, names, draw.choice(systems), f"user-{chat}", begins_s, duration_s)
        begins_s += draw.expovariate(chats_per_s)
    return sorted(found, key=lambda request: request.arrival_s)


def _turns(
    lengths: Sequence[TraceRequest],
    draw: random.Random,
    names: "count[int]",
    system: list[int],
    user: str,
    at_s: float,
    end_s: float,
) -> list[TraceRequest]:
    found: list[TraceRequest] = []
    blocks, context = list(system), len(system) * BLOCK_TOKENS
    while at_s < end_s:
        like = draw.choice(lengths)
        context += max(8, like.input_tokens // (FOLLOW_UP if found else OPENING))
        ends = context + like.output_tokens
        if ends > LONGEST_TOKENS:
            break
        blocks += (next(names) for _ in range(ends // BLOCK_TOKENS - len(blocks)))
        found.append(
            TraceRequest(
                arrival_s=at_s,
                input_tokens=context,
                output_tokens=like.output_tokens,
                user=user,
                blocks=tuple(blocks),
                block_tokens=BLOCK_TOKENS,
            )
        )
        context = ends
        if draw.random() > GOES_ON:
            break
        at_s += like.output_tokens * TOKEN_S + draw.expovariate(1 / THINK_S)
    return found
