"""cost_optimized: the cheapest capacity that still meets the deadline, and what may wait, waits for it."""

from math import inf
from typing import ClassVar, Self

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import RequestPriority

from .base import BasePolicy, Key
from .deadlines import due_s, start_by_s
from .options import PolicyOptions
from .wording import aged, duration

MOMENT_S = (0.0, 0.2, 0.5)
"""How long a CRITICAL, HIGH or NORMAL request may wait for a cheap place at most."""

OPEN_S = 0.2
"""How much longer a request waits before a dear instance that was idle begins to run: about two steps, after which
one that runs may have room again. Opened for one request, it stays busy for many seconds."""

FULL_LOAD = 0.95
QUIET_LOAD = 0.75
"""Share of an instance's credits in use from which on it is full, and from which on it has none to spare for what
may wait."""


class CostOptimized(BasePolicy):
    """Every request has a time until which it waits for a cheap place, and goes in the order of these times.

    Work that may wait (LOW, BACKGROUND, or with a distant deadline) waits for half of the time in which it could
    start, or as long as its priority allows, for an instance of the lowest price on which no prompt is waiting: so
    pressing work finds room there. Other work waits a moment, at most a quarter of the time it has, for one whose
    prompts fit a step. Whoever waits no more takes the cheapest instance that is not full, and of dear ones the
    fullest of those: as few as possible are busy. If all are full, all are used alike, and so they are where they
    cost the same.

    Steps are paced: full instances are cheap, and must not be late for those that decode there.
    """

    name: ClassVar[str] = "cost_optimized"
    paced = True

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._until_s: dict[int, float] = {}

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """Settle until when it waits. Were that to move later on, the first in order could hold up the others."""
        self._until_s[request.sequence] = self._wait_until_s(request)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Forget it."""
        del self._until_s[request.sequence]

    def preview(self) -> Self:
        """A copy with the same times."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._until_s = self._until_s.copy()
        return twin

    def key(self, request: TrackedRequest) -> Key:
        """Until when it waits: while the first does, so do all."""
        return (self._until_s[request.sequence],)

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """The cheapest that have room; nobody, while it had better wait for one of those. All, where all cost the
        same: waiting would save nothing."""
        if not self.outlook.prices_differ(request):
            return candidates
        lowest = self.outlook.lowest_price(request)
        # Who waits in the order of a policy before this one has not entered here yet.
        until_s = self._until_s.get(request.sequence) or self._wait_until_s(request)
        if now_s < until_s and is_deferrable(request, self._options.deferrable_s):
            quietest = candidates.least(_by_quiet)
            quiet = _price(quietest) <= lowest and not quietest.unread_tokens and quietest.load < QUIET_LOAD
            return candidates.one(quietest) if quiet else Candidates()
        best = candidates.least(_by_economy)
        if _price(best) <= lowest and not _full(best):
            return Candidates() if now_s < until_s and _reads(best) else candidates.part(_price, lowest)
        if now_s < until_s + (0.0 if best.assigned else OPEN_S):
            return Candidates()
        return candidates if _full(best) else candidates.one(best)

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """Whether it may wait for a cheap place, and for how long."""
        wait_s = self._wait_until_s(request) - now_s
        if wait_s <= 0:
            return f"it is pressing; {aged(request, self._options.ageing_s)}"
        if self.outlook.prices_differ(request):
            return f"it may wait, and does so for the cheapest place, for {duration(wait_s)} more at most"
        return f"it may wait for {duration(wait_s)} more, and goes behind what is pressing until then"

    def _wait_until_s(self, request: TrackedRequest) -> float:
        deferrable = is_deferrable(request, self._options.deferrable_s)
        latest_s = start_by_s(request, self.outlook.prefill_s(request), self.outlook.service_s(request))
        if latest_s < inf:
            # The rest of the time is kept for what predictions do not see.
            patience_s = (latest_s - request.arrival_s) / (2 if deferrable else 4)
        else:
            patience_s = request.priority * self._options.ageing_s
        if not deferrable:
            patience_s = min(patience_s, MOMENT_S[min(request.priority, len(MOMENT_S) - 1)])
        return request.arrival_s + patience_s


def is_deferrable(request: TrackedRequest, deferrable_s: float) -> bool:
    """Whether a request may wait: by its deadline if it has one, else by its priority."""
    due = due_s(request)
    if due < inf:
        return due - request.arrival_s >= deferrable_s
    return request.priority >= RequestPriority.LOW


def cheapest(candidates: Candidates) -> Candidates:
    """Those of the lowest price."""
    return candidates.part(_price, _price(candidates.least(_by_price)))


def _full(instance: Instance) -> bool:
    return instance.load >= FULL_LOAD or instance.cramped


def _reads(instance: Instance) -> bool:
    """Whether it has as many prompts to compute as fit a step."""
    return bool(instance.step_tokens) and instance.unread_tokens >= instance.step_tokens


def _price(instance: Instance) -> float:
    return instance.info.price_per_hour


def _by_price(instance: Instance) -> tuple[float, ...]:
    return (instance.info.price_per_hour,)


def _by_quiet(instance: Instance) -> tuple[float, ...]:
    return instance.info.price_per_hour, instance.unread_tokens, instance.load, instance.last_turn


def _by_economy(instance: Instance) -> tuple[float, ...]:
    return _full(instance), instance.info.price_per_hour, -len(instance.assigned)
