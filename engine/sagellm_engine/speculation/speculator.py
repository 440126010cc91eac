"""`Speculator`: which sequences get drafts, how many, and what came of them."""

import logging
import time
from collections.abc import Callable, Collection

from sagellm_engine.sequence import Sequence
from sagellm_schemas import SpeculationStats

from .chances import Chances
from .drafter import StepLoad
from .proposer import Proposer
from .worth import Worth

log = logging.getLogger(__name__)

PROBE_STEPS = 64
PROBE_TOKENS = 2
"""When nothing was worth drafting for so many steps, two tokens of one sequence are drafted all the same: texts,
batches and machines change, and only trying tells."""


class Speculator:
    """A `Drafter` that asks a proposer, and stops asking where it does not pay.

    An error of the proposer ends speculation, and no answer.
    """

    def __init__(
        self, proposer: Proposer, most_tokens: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`most_tokens` is how many a sequence may get in one step."""
        self._proposer = proposer
        self._most_tokens = most_tokens
        self._clock = clock
        self._worth = Worth()
        self._chances = Chances()
        self._kinds: dict[Sequence, int] = {}
        self._drafted_total = self._accepted_total = 0
        self._step = 0
        self._idle_steps = 0
        self._spent_s = 0.0
        self._broken = False

    def stats(self) -> SpeculationStats:
        """Tokens so far."""
        return SpeculationStats(
            drafted_tokens_total=self._drafted_total, accepted_tokens_total=self._accepted_total
        )

    def wanted(self, decodes: Collection[Sequence]) -> dict[Sequence, int]:
        """As many as pay; see `Drafter`."""
        self._step += 1
        self._spent_s = 0.0
        if self._broken or not decodes or not self._worth.known:
            return {}
        load = StepLoad(len(decodes), sum(s.num_computed + 1 for s in decodes), 0)
        probing = self._idle_steps >= PROBE_STEPS
        self._idle_steps += 1
        if not (probing or self._worth.could_pay(load)):
            return {}
        began_s = self._clock()
        counts = self._counts(decodes, load, probing=probing)
        self._spent_s += self._clock() - began_s
        if counts:
            self._idle_steps = 0
        return counts

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """Ask the proposer; see `Drafter`."""
        began_s = self._clock()
        try:
            proposals = self._proposer.propose(room)
        except Exception:
            self._stop()
            return {}
        spent_s = self._clock() - began_s
        self._spent_s += spent_s
        if len(proposals) == len(room):  # else it was busy with preparations, which are soon over
            self._worth.proposed(sum(map(len, proposals.values())), spent_s)
        return proposals

    def judged(self, sequence: Sequence, accepted: int) -> None:
        """Learn from it; see `Drafter`."""
        drafted = len(sequence.drafts)
        self._drafted_total += drafted
        self._accepted_total += accepted
        self._chances.judged(sequence, self._kinds[sequence], self._step, drafted, accepted)

    def took(self, load: StepLoad, duration_s: float) -> None:
        """Learn from it; see `Drafter`."""
        self._worth.took(load, duration_s - self._spent_s)

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._proposer.forget(sequence)
        self._chances.forget(sequence)
        self._kinds.pop(sequence, None)

    def _counts(self, decodes: Collection[Sequence], load: StepLoad, *, probing: bool) -> dict[Sequence, int]:
        try:
            offers = self._offers(decodes)
        except Exception:
            self._stop()
            return {}
        counts = self._limited(self._worth.counts(load, offers))
        if probing and offers and not counts:
            sequence = max(offers, key=lambda s: offers[s][0])
            return {sequence: min(PROBE_TOKENS, offers[sequence][1])}
        return counts

    def _offers(self, decodes: Collection[Sequence]) -> dict[Sequence, tuple[float, int]]:
        """The chance that a draft is right, and how many there are, of those that could have any."""
        offers: dict[Sequence, tuple[float, int]] = {}
        for sequence in decodes:
            # A step gives one token more than it has drafts that are right.
            most = min(self._most_tokens, sequence.max_tokens - sequence.num_output - 1)
            outlook = self._proposer.look(sequence, most) if most > 0 else None
            if outlook is not None:
                self._kinds[sequence] = outlook.kind
                chance = self._chances.chance(sequence, outlook, self._step)
                offers[sequence] = (chance, outlook.tokens)
        return offers

    def _limited(self, counts: dict[Sequence, int]) -> dict[Sequence, int]:
        left = self._worth.most_drafts
        limited: dict[Sequence, int] = {}
        for sequence, count in counts.items():
            if left:
                limited[sequence] = min(count, left)
                left -= limited[sequence]
        return limited

    def _stop(self) -> None:
        log.exception("drafting failed; answers go on without speculation")
        self._broken = True
