"""Requests that must be dispatched again: counted, stored, and continued after what their readers hold."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.background import start
from sagellm.scheduler.dead_letters import DeadLetters
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.timings import Timings
from sagellm_schemas import (
    AttemptsExhausted,
    Codec,
    ErrorBody,
    HeldQuery,
    HeldReply,
    InvalidRequest,
    RequestStatus,
    encode,
    subjects,
)

logger = logging.getLogger(__name__)

BATCH = 128
PAUSE_S = 0.2


class Recovery:
    """The way back into the queue, for everything that may have been dispatched before."""

    def __init__(
        self,
        nc: Client,
        table: RequestTable,
        attempts: Attempts,
        endings: Endings,
        dead_letters: DeadLetters,
        metrics: SchedulerMetrics,
        timings: Timings,
        term: int,
        max_attempts: int,
        enqueue: Callable[[TrackedRequest], None],
    ) -> None:
        self._nc = nc
        self._table = table
        self._attempts = attempts
        self._endings = endings
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._timings = timings
        self._term = term
        self._max_attempts = max_attempts
        self._enqueue = enqueue
        self._codec = Codec(HeldReply)
        self._waiting: asyncio.Queue[tuple[TrackedRequest, bool]] = asyncio.Queue()

    def failed(self, tracked: TrackedRequest, error: ErrorBody) -> None:
        """An attempt failed in a way that another may not."""
        tracked.failures += 1
        tracked.errors.append(error)
        self._metrics.failures.inc()
        self._again(tracked, changed=True)

    def returned(self, tracked: TrackedRequest) -> None:
        """An attempt ended through no fault of the request: drained, preempted, lost on the way."""
        tracked.returns += 1
        self._again(tracked, changed=True)

    def resume(self, tracked: TrackedRequest) -> None:
        """A new leader found a request that may have run before."""
        self._again(tracked, changed=False)

    async def run(self) -> None:
        """Bring requests back, as long as this leader leads; a reader that is silent delays only its own."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                batch = [await self._waiting.get()]
                while not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                by_owner: defaultdict[str | None, list[tuple[TrackedRequest, bool]]] = defaultdict(list)
                for tracked, changed in batch:
                    by_owner[subjects.owner_of(tracked.request.reply_to)].append((tracked, changed))
                for owner, theirs in by_owner.items():
                    for first in range(0, len(theirs), BATCH):
                        start(
                            tasks, self._bring_back(owner, theirs[first : first + BATCH]), f"recovery for {owner}"
                        )

    def _again(self, tracked: TrackedRequest, *, changed: bool) -> None:
        tracked.status = RequestStatus.PENDING
        self._metrics.retries.inc(changed)
        self._waiting.put_nowait((tracked, changed))

    async def _bring_back(self, owner: str | None, batch: list[tuple[TrackedRequest, bool]]) -> None:
        going_on: list[TrackedRequest] = []
        changed_ones: list[TrackedRequest] = []
        for tracked, changed in batch:
            if tracked.failures >= self._max_attempts:
                await self._give_up(tracked)
            elif tracked.cancelled:
                self._endings.cancel(tracked)
            else:
                going_on.append(tracked)
                if changed:
                    changed_ones.append(tracked)
        await asyncio.gather(*(self._save(tracked) for tracked in changed_ones))
        if owner is not None and going_on:
            held = await self._ask(owner, going_on)
            for tracked in going_on:
                if not self._table.holds(tracked):
                    continue  # cancelled meanwhile
                if tracked.id in held:
                    tracked.resume_token_ids = held[tracked.id]
                else:
                    self._endings.settle(tracked)
        for tracked in going_on:
            if self._table.holds(tracked):
                self._enqueue(tracked)

    async def _save(self, tracked: TrackedRequest) -> None:
        while True:
            try:
                return await self._attempts.save(tracked)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("the attempts of request %s cannot be stored yet: %s", tracked.id, error)
                await asyncio.sleep(PAUSE_S)

    async def _give_up(self, tracked: TrackedRequest) -> None:
        last = tracked.errors[-1]
        logger.warning(
            "request %s failed %d times, now a dead letter: %s", tracked.id, tracked.failures, last.message
        )
        await self._dead_letters.put(
            sequence=tracked.sequence,
            request_id=tracked.id,
            model=tracked.request.model,
            errors=tracked.errors,
            request=tracked.request,
        )
        if self._table.holds(tracked):
            error = AttemptsExhausted(f"all {tracked.failures} attempts failed; the last: {last.message}")
            self._endings.fail(tracked, error.body())

    async def _ask(self, owner: str, batch: list[TrackedRequest]) -> dict[str, list[int]]:
        """The tokens that `owner` holds of each request that it still wants; nothing where the owner has gone."""
        query = encode(HeldQuery(attempts={t.id: t.next_attempt(self._term) for t in batch}))
        until_s = time.monotonic() + self._timings.owner_grace_s
        while True:
            try:
                reply = await self._nc.request(subjects.held(owner), query, timeout=self._timings.owner_timeout_s)
                return {id_: held.token_ids for id_, held in self._codec.decode(reply.data).held.items()}
            except InvalidRequest as error:
                logger.error("reply owner %s answers nonsense, its requests start over: %s", owner, error)
                return {t.id: [] for t in batch}
            except (nats.errors.Error, TimeoutError):
                if time.monotonic() >= until_s and self._nc.is_connected:
                    logger.warning("reply owner %s has gone: %d of its requests are dropped", owner, len(batch))
                    return {}
                await asyncio.sleep(PAUSE_S)
