"""What the worker holds and what it has done: running jobs, latest endings, cancelled ids, the leadership term."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from sagellm_schemas import Ended, PositionLogprobs, Tariff, WorkItem

REMEMBERED_S = 60.0
MAX_REMEMBERED = 10_000

T = TypeVar("T")

Reader = tuple[str, str]
"""Where frames go, and in which content type."""


@dataclass(slots=True, eq=False)
class Job:
    """One accepted work item until it has ended.

    `key` names it in the engine; it differs between attempts, so that a late output of an aborted attempt can
    never be taken for one of the next. `ack` is the JetStream subject that acknowledges the item.
    `first_output_at`, `last_output_at` and `longest_gap_s` time its outputs; 0 before there are any. `late_gaps`
    of the gaps were longer than `tbt_slo_s`. The last four fields gather what has not been sent; of a request that
    does not stream, the whole answer.
    """

    key: str
    id: str
    attempt: int
    reader: Reader | None
    stream: bool
    ack: str
    accepted_at: float
    tariff: Tariff | None = None
    tbt_slo_s: float = inf
    late_gaps: int = 0
    first_output_at: float = 0.0
    last_output_at: float = 0.0
    longest_gap_s: float = 0.0
    offset: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)

    def output(self, now: float) -> None:
        """It has an output at `now`."""
        if not self.first_output_at:
            self.first_output_at = now
        else:
            gap_s = now - self.last_output_at
            if gap_s > self.longest_gap_s:
                self.longest_gap_s = gap_s
            if gap_s > self.tbt_slo_s:
                self.late_gaps += 1
        self.last_output_at = now


class Ledger:
    """The worker's only state about requests. Nothing here talks to NATS or to the engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.term = 0
        self.jobs: dict[str, Job] = {}
        """Running jobs by engine key."""
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()
        self._by_id: dict[str, Job] = {}
        self._ended: OrderedDict[str, tuple[float, Ended]] = OrderedDict()
        self._attempts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._cancelled: OrderedDict[str, tuple[float, None]] = OrderedDict()
        self.clock = clock

    def fence(self, term: int) -> bool:
        """Whether an order of leadership `term` may be followed; it is remembered if it is the highest so far."""
        if term < self.term:
            return False
        self.term = term
        return True

    def accept(self, item: WorkItem, ack: str) -> Job:
        """Enter `item` as running."""
        request = item.request
        job = Job(
            key=f"{request.id}.{item.attempt}",
            id=request.id,
            attempt=item.attempt,
            reader=(request.reply_to, item.reply_format) if request.reply_to else None,
            stream=request.stream,
            ack=ack,
            accepted_at=self.clock(),
            tariff=item.tariff,
            tbt_slo_s=inf if request.tbt_slo_ms is None else request.tbt_slo_ms / 1000,
        )
        self.jobs[job.key] = self._by_id[job.id] = job
        self.idle.clear()
        self._ended.pop(job.id, None)
        return job

    def running(self, request_id: str) -> Job | None:
        """The job of that request, if it runs here."""
        return self._by_id.get(request_id)

    def attempts(self) -> dict[str, int]:
        """Running requests with their attempts, as heartbeats show them."""
        return {job.id: job.attempt for job in self._by_id.values()}

    def has_ended(self, request_id: str, attempt: int) -> bool:
        """Whether that attempt, or a later one, has already run here."""
        known = self._attempts.get(request_id)
        return known is not None and attempt <= known[1]

    def forget(self, job: Job) -> None:
        """Drop `job` without an ending: a later attempt takes its place."""
        del self.jobs[job.key]
        del self._by_id[job.id]
        if not self.jobs:
            self.idle.set()

    def end(self, job: Job, ended: Ended) -> None:
        """Move `job` from running to ended."""
        self.forget(job)
        now = self.clock()
        self.record(ended, now)

    def record(self, ended: Ended, now: float | None = None) -> None:
        """Remember an ending, also of an item that never ran here."""
        now = self.clock() if now is None else now
        _remember(self._ended, ended.id, ended, now)
        _remember(self._attempts, ended.id, ended.attempt, now)

    def latest(self) -> list[Ended]:
        """The endings of the last minute, oldest first."""
        oldest = self.clock() - REMEMBERED_S
        return [ended for at, ended in self._ended.values() if at >= oldest]

    def forget_endings(self) -> None:
        """Claim no ending any more: after a lost connection nobody can know which of them were heard of."""
        self._ended.clear()

    def cancel(self, request_ids: Iterable[str]) -> list[Job]:
        """Remember these as cancelled; returns those that run here."""
        now = self.clock()
        for request_id in request_ids:
            _remember(self._cancelled, request_id, None, now)
        return [self._by_id[request_id] for request_id in request_ids if request_id in self._by_id]

    def was_cancelled(self, request_id: str) -> bool:
        """Whether the request was cancelled within the last minute."""
        known = self._cancelled.get(request_id)
        return known is not None and known[0] >= self.clock() - REMEMBERED_S


def _remember(memory: OrderedDict[str, tuple[float, T]], key: str, value: T, now: float) -> None:
    """Enter a fact with its time, and drop those that are too old or too many."""
    memory[key] = (now, value)
    memory.move_to_end(key)
    oldest = next(iter(memory.values()))
    while len(memory) > MAX_REMEMBERED or oldest[0] < now - REMEMBERED_S:
        memory.popitem(last=False)
        oldest = next(iter(memory.values()))
