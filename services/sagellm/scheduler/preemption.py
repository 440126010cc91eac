"""Preemption: a CRITICAL request that comes up and finds every credit in use may send a running one back.

The policy alone says who goes next: only the first request of a queue is looked at, and what is sent back only
makes room for it sooner. The victim goes the way of everything that is handed back: it waits with the tokens that
its reader holds, keeps its arrival and with it its place, and ends with the same text.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from sagellm.broker import Sender
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm_schemas import Control, RequestPriority, RequestStatus, encode, subjects

SOON_S = 0.25
"""A request that will probably end within this time frees its credit soon enough."""
MOST_PREEMPTIONS = 3
"""So often a request is preempted; then it stays, whatever comes."""
ON_ITS_WAY_S = 0.1
"""For so long a request may still be on its way to its instance, and be overtaken by the order to send it back."""
LOST_AFTER_S = 0.25
"""An order without effect is repeated after this time."""
LOOK_AGAIN_S = 0.1
"""How long a look at running requests that found no victim holds good for the same first request."""
MOST_LOOKED_AT = 250
"""One look takes in about so many running requests, a millisecond's work; the next one begins where it stopped."""


def victim_of(
    running: Iterable[tuple[TrackedRequest, float]], estimates: Estimates, soon_s: float = SOON_S
) -> TrackedRequest | None:
    """Whom to send back of those that run, each given with the seconds since its dispatch.

    The lowest priority first, and of these one that certainly has reached its instance; then whoever loses least,
    in tokens that must be computed again; then whoever would hold its credit longest. None: nobody may be
    preempted, or a credit will be free within `soon_s` anyway. A request that lasts longer than was predicted is
    not expected to end soon.
    """
    best: TrackedRequest | None = None
    best_key = (0, False, 0.0, 0.0)
    for tracked, elapsed_s in running:
        left_s = estimates.service_s(tracked) - elapsed_s
        if 0 <= left_s <= soon_s:
            return None
        if not _may_be_preempted(tracked):
            continue
        lost_tokens = _lost_tokens(tracked, elapsed_s, estimates)
        key = (-tracked.priority, elapsed_s < ON_ITS_WAY_S, lost_tokens, -left_s)
        if best is None or key < best_key:
            best, best_key = tracked, key
    return best


def _may_be_preempted(tracked: TrackedRequest) -> bool:
    return (
        tracked.request.can_be_preempted
        and tracked.priority > RequestPriority.CRITICAL
        and tracked.preemptions < MOST_PREEMPTIONS
        and not tracked.cancelled
    )


def _lost_tokens(tracked: TrackedRequest, elapsed_s: float, estimates: Estimates) -> float:
    """About how many tokens it has computed by now: its prompt, what it went on from, and its answer."""
    read = tracked.prompt_tokens + len(tracked.resume_token_ids)
    answering_s = elapsed_s - estimates.prefill_s(tracked)
    if answering_s <= 0:
        return read
    return read + answering_s / estimates.pace(tracked.request.model).interval_s


@dataclass(slots=True)
class _Order:
    victim: TrackedRequest
    attempt: int
    sent_s: float

    @property
    def open(self) -> bool:
        """Whether the victim has not ended, one way or other."""
        return self.victim.status is RequestStatus.RUNNING and self.victim.attempt == self.attempt


class Preemption:
    """Orders workers to hand requests back: one victim for one CRITICAL request, and one at a time for a model."""

    def __init__(
        self,
        table: RequestTable,
        instances: Instances,
        estimates: Estimates,
        sender: Sender,
        metrics: SchedulerMetrics,
        term: int,
    ) -> None:
        self._table = table
        self._instances = instances
        self._estimates = estimates
        self._sender = sender
        self._metrics = metrics
        self._term = term
        self._orders: dict[str, _Order] = {}
        self._looked: dict[str, tuple[int, float]] = {}
        self._start = 0

    def make_room(self, first: TrackedRequest) -> None:
        """`first` is the first of its model's queue, and there is no place for it: see whether to make one."""
        if first.priority != RequestPriority.CRITICAL:
            return
        model, now_s = first.request.model, time.monotonic()
        order = self._orders.get(model)
        if order is not None and order.open and self._table.holds(order.victim):
            if now_s - order.sent_s > LOST_AFTER_S:
                self._send(order, now_s)
            return
        if first.made_room or self._looked_lately(first, now_s):
            return
        running = self._running(first, now_s)
        victim = None if running is None else victim_of(running, self._estimates)
        if victim is not None:
            first.made_room = True
            order = self._orders[model] = _Order(victim, victim.attempt, now_s)
            self._send(order, now_s)

    def returned(self, tracked: TrackedRequest) -> None:
        """A request was handed back unfinished: perhaps because of us."""
        order = self._orders.get(tracked.request.model)
        if order is not None and order.victim is tracked and order.attempt == tracked.attempt:
            del self._orders[tracked.request.model]
            tracked.preemptions += 1
            self._metrics.preemptions.inc()

    def _looked_lately(self, first: TrackedRequest, now_s: float) -> bool:
        sequence, looked_s = self._looked.get(first.request.model, (0, 0.0))
        if sequence == first.sequence and now_s - looked_s < LOOK_AGAIN_S:
            return True
        self._looked[first.request.model] = (first.sequence, now_s)
        return False

    def _running(self, first: TrackedRequest, now_s: float) -> list[tuple[TrackedRequest, float]] | None:
        """What runs where `first` can, and since when; None if one of these instances has a place, and only has
        to read the prompts it was given before it takes another."""
        running: list[tuple[TrackedRequest, float]] = []
        adapter, serving = first.request.adapter, self._instances.serving(first.request.model)
        start = self._start % max(1, len(serving))
        for instance in chain(serving[start:], serving[:start]):
            if len(running) >= MOST_LOOKED_AT:
                break
            self._start += 1
            if not instance.ready or (adapter is not None and adapter not in instance.info.adapters):
                continue
            if len(instance.assigned) < instance.capacity:
                return None
            for request_id in instance.assigned:
                tracked = self._table.get(request_id)
                if tracked is not None and tracked.instance == instance.id:
                    running.append((tracked, now_s - tracked.dispatched_s))
        return running

    def _send(self, order: _Order, now_s: float) -> None:
        order.sent_s = now_s
        control = Control(term=self._term, preempt=[order.victim.id])
        self._sender.send(subjects.control(order.victim.instance), encode(control))
