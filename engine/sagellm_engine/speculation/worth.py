"""Whether drafts are worth what they cost, by what steps took so far. Pure: no clock, no tensor.

A step with B decodes that takes T seconds is worth T / B seconds a token: so much is saved by each draft that is
right. One more draft after k - 1 others is right with the chance p^k, and pays while p^k · T / B is above what its
row costs. So a sequence gets as many as pay, and at a high batch, where tokens are cheap and rows dear, none.
"""

from collections.abc import Mapping
from math import log

from sagellm_engine.least_squares import LeastSquares
from sagellm_engine.sequence import Sequence

from .drafter import StepLoad

MARGIN = 1.25
"""So many times what it costs must a draft bring: both are estimates."""

NEARLY_ALWAYS = 0.97
"""No chance is better."""

MEMORY = 0.98
"""About the last fifty steps of a sort count."""

REFRESH_STEPS = 64
"""After so many steps with drafts one goes without: what they cost is known by the difference."""

KNOWN_STEPS = 2
"""What a step without drafts takes is known after so many."""

GROWTH = 2
FIRST_DRAFTS = 16
"""A step has at most so many times the drafts of any before it, and at first so many: beyond, their cost would be
a guess."""

DECODES_SCALE, KV_SCALE, DRAFTS_SCALE = 10.0, 1e4, 10.0
PLAIN_PRIOR_S = (0.008, 0.0002, 0.0005)
"""Of a step, of ten decodes, of reading ten thousand tokens' KV: soon forgotten."""


class Worth:
    """Learns what steps and their drafts take, and says how many drafts pay. Durations are seconds."""

    def __init__(self) -> None:
        self._plain = LeastSquares(PLAIN_PRIOR_S, MEMORY)
        # Drafts are taken to be free until they were tried.
        self._extra = LeastSquares((0.0, 0.0), MEMORY)
        self._proposing_s = self._proposed = 0.0
        self._drafted_steps = 0
        self._most_drafts = FIRST_DRAFTS // GROWTH

    @property
    def most_drafts(self) -> int:
        """Of all sequences in one step."""
        return GROWTH * self._most_drafts

    @property
    def known(self) -> bool:
        """Whether it knows what a step without drafts takes now."""
        return self._plain.samples >= KNOWN_STEPS and self._drafted_steps < REFRESH_STEPS

    def took(self, load: StepLoad, duration_s: float) -> None:
        """A step of nothing but decodes and drafts took so long, without the time to propose them."""
        plain = (1.0, load.decodes / DECODES_SCALE, load.kv_tokens / KV_SCALE)
        if not load.drafts:
            self._plain.observe(plain, duration_s)
            self._drafted_steps = 0
            return
        self._drafted_steps += 1
        self._most_drafts = max(self._most_drafts, load.drafts)
        extra_s = duration_s - self._plain.predict(plain)
        self._extra.observe((1.0, load.drafts / DRAFTS_SCALE), extra_s)

    def proposed(self, tokens: int, duration_s: float) -> None:
        """To propose so many tokens took so long."""
        self._proposing_s = MEMORY * self._proposing_s + duration_s
        self._proposed = MEMORY * self._proposed + tokens

    def could_pay(self, load: StepLoad) -> bool:
        """Whether drafts that are nearly always right would pay."""
        return self._draft_s < NEARLY_ALWAYS * self._token_s(load)

    def counts(self, load: StepLoad, offers: Mapping[Sequence, tuple[float, int]]) -> dict[Sequence, int]:
        """How many drafts to check of each sequence, in a step that would be `load` without.

        `offers` are the chance that a draft is right, and how many there are.
        """
        token_s, draft_s = self._token_s(load), self._draft_s
        any_s = self._extra.coefficients[0]
        counts: dict[Sequence, int] = {}
        gain_s = 0.0
        for sequence, (chance, most) in offers.items():
            count = paying(chance, draft_s / token_s, most)
            if count:
                counts[sequence] = count
                gain_s += expected(chance, count) * token_s - count * draft_s
        return counts if gain_s > MARGIN * any_s else {}

    @property
    def _draft_s(self) -> float:
        """What one more draft must bring."""
        proposing_s = self._proposing_s / self._proposed if self._proposed else 0.0
        return MARGIN * (self._extra.coefficients[1] / DRAFTS_SCALE + proposing_s)

    def _token_s(self, load: StepLoad) -> float:
        step_s = self._plain.predict((1.0, load.decodes / DECODES_SCALE, load.kv_tokens / KV_SCALE))
        return max(step_s, 1e-9) / load.decodes


def paying(chance: float, cost: float, most: int) -> int:
    """The largest k up to `most` with chance^k above `cost`, which is in units of what a right draft saves."""
    if cost <= 0 or chance >= 1:
        return most if chance > cost else 0
    if cost >= 1 or chance <= 0:
        return 0
    return min(most, int(log(cost) / log(chance)))


def expected(chance: float, count: int) -> float:
    """How many of `count` drafts are right on average, if each is with that chance when those before it are."""
    return chance * (1 - chance**count) / (1 - chance) if chance < 1 else float(count)
