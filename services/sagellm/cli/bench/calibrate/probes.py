"""The controlled work: prompts alone, and batches of decodes; and what a step took in each."""

import random
from collections.abc import Callable, Iterator
from statistics import median

import msgspec

from sagellm_schemas import EngineError

from .rig import Facts, Rig, Trail

SHORT_TOKENS = 32
LONG_TOKENS = 1024
"""Contexts of decodes: with two of them, what reading KV takes can be told from the rest."""
LONG_BATCH_TOKENS = 4096
"""A batch's contexts together, so that a slow machine need not read prompts for minutes."""
STEPS = 24
"""Decode steps that are measured at least."""
TRIES = 3
LOWEST_TOKEN_ID = 256
"""Below, many vocabularies keep their control tokens and bytes."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure. With `batch` 0 a prompt of `tokens` alone, until its first token; else a step of
    so many decodes, whose prompts had `tokens` each."""

    batch: int
    tokens: int


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe took in ms, as the median of its runs; `kv_tokens` are what a decode step read on average."""

    probe: Probe
    ms: float
    runs_ms: list[float]
    kv_tokens: float = 0.0


def plan(facts: Facts, budget: int, max_batch: int) -> list[Probe]:
    """Prompts of twice the largest batch, four times, and so on up to a step's budget, and batches of 1, 2, 4 …;
    the smallest and the largest batch with long contexts too.

    Prompts that a batch's decodes could stand for are left out: a step of so many tokens is measured once. Where
    the instance tells the size of its steps, prompts of several steps tell what attention to earlier ones takes.
    """
    room = facts.max_model_len - 1
    sizes = [size for size in _doubling(max_batch * 2, budget) if size <= room]
    if facts.max_batched_tokens:
        sizes += [times * budget for times in (2, 4) if times * budget <= room]
    prompts = [Probe(batch=0, tokens=size) for size in sizes or [room]]
    capacity = facts.kv_tokens or facts.max_num_seqs * facts.max_model_len
    decodes = []
    for batch in _doubling(1, max_batch):
        share = min(capacity // batch, facts.max_model_len) - 4 * STEPS
        long_tokens = min(LONG_TOKENS, LONG_BATCH_TOKENS // batch)
        contexts = (SHORT_TOKENS, long_tokens) if batch in (1, max_batch) else (SHORT_TOKENS,)
        for tokens in contexts:
            probe = Probe(batch=batch, tokens=min(tokens, share))
            if share > 0 and probe not in decodes:
                decodes.append(probe)
    return prompts + decodes


async def measure(
    rig: Rig, probes: list[Probe], budget: int, repeat: int, seed: int, say: Callable[[int], None]
) -> list[Measurement]:
    """Run every probe `repeat` times, after one run that does not count. `say` is told how many are done.

    Raises:
        SageError: a request fails, or a batch does not come to decode together.
    """
    draw = random.Random(seed)
    found = []
    for number, probe in enumerate(probes):
        runs = [await _run(rig, probe, budget, draw) for _ in range(repeat + 1)][1:]
        found.append(
            Measurement(
                probe=probe,
                ms=median(ms for ms, _ in runs),
                runs_ms=[round(ms, 4) for ms, _ in runs],
                kv_tokens=median(kv for _, kv in runs),
            )
        )
        say(number + 1)
    return found


async def _run(rig: Rig, probe: Probe, budget: int, draw: random.Random) -> tuple[float, float]:
    """The time in ms, and the KV tokens read."""
    prompts = [_prompt(rig.facts, probe.tokens, draw) for _ in range(max(1, probe.batch))]
    if not probe.batch:
        (trail,) = await rig.run(prompts, 1)
        return trail.first_token_ms, 0.0
    # The first to begin must not end before the last has begun and made its steps.
    output_tokens = STEPS + 2 + -(-probe.batch * probe.tokens // budget)
    for _ in range(TRIES):
        output_tokens = min(output_tokens, rig.facts.max_model_len - probe.tokens)
        found = common_step(await rig.run(prompts, output_tokens), probe.tokens)
        if found is not None:
            return found
        output_tokens *= 2
    raise EngineError(
        f"{probe.batch} requests with prompts of {probe.tokens} tokens never decoded together; "
        "give --max-batch no more than the instance runs at once"
    )


def common_step(trails: list[Trail], prompt_tokens: int) -> tuple[float, float] | None:
    """The mean step in ms while all of a batch decode, and the KV tokens it reads; None if there are too few.

    It begins with the second arrival of the last one to begin, since its first token may have come out of turn.
    """
    last = max(trails, key=lambda trail: trail.arrivals[0][0])
    if len(last.arrivals) < 3:
        return None
    began_s, before = last.arrivals[1]
    ends_s = min(trail.arrivals[-1][0] for trail in trails)
    inside = [(at_s, tokens) for at_s, tokens in last.arrivals if began_s < at_s <= ends_s]
    if not inside or inside[-1][1] - before < STEPS // 2:
        return None
    ended_s, after = inside[-1]
    contexts = sum(prompt_tokens + (_at(trail, began_s) + _at(trail, ended_s)) / 2 for trail in trails)
    return (ended_s - began_s) * 1000 / (after - before), contexts


def _at(trail: Trail, time_s: float) -> int:
    """How many tokens there were."""
    return max((tokens for at_s, tokens in trail.arrivals if at_s <= time_s), default=0)


def _prompt(facts: Facts, tokens: int, draw: random.Random) -> list[int]:
    """Tokens that no prefix cache has seen."""
    lowest = LOWEST_TOKEN_ID if facts.vocab_size > 2 * LOWEST_TOKEN_ID else 0
    return [draw.randrange(lowest, facts.vocab_size) for _ in range(tokens)]


def _doubling(first: int, last: int) -> Iterator[int]:
    """`first`, twice that, and so on, and `last`."""
    while first < last:
        yield first
        first *= 2
    yield last
