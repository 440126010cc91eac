"""How a new leader comes to know what there is to answer for: from its copy of the queue, then from the replay."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from math import inf

import nats.errors
import nats.js.errors

from sagellm.scheduler.adoption import NO_DOUBTS, Adoption, Doubts
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.cancellations import Cancellations
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.intake import Intake
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.policy_state import PolicyState
from sagellm.scheduler.queue_copy import QueueCopy
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.takeover import Takeover
from sagellm_schemas import RequestStatus

logger = logging.getLogger(__name__)

AT_ONCE = 1000
CATCH_UP_EVERY_S = 0.1


class Succession:
    """The steps of a takeover: `prepare` where there is time for it, `learn`, then `replay`.

    `policy` is the one in use. `cancel` ends a request that is here already, wherever it is.
    """

    def __init__(
        self,
        queue_copy: QueueCopy,
        table: RequestTable,
        intake: Intake,
        dispatcher: Dispatcher,
        endings: Endings,
        adoption: Adoption,
        attempts: Attempts,
        takeover: Takeover,
        cancellations: Cancellations,
        cancel: Callable[[str], None],
        policy: Policy,
        policy_state: PolicyState,
        metrics: SchedulerMetrics,
    ) -> None:
        self._queue_copy = queue_copy
        self._table = table
        self._intake = intake
        self._dispatcher = dispatcher
        self._endings = endings
        self._adoption = adoption
        self._attempts = attempts
        self._takeover = takeover
        self._cancellations = cancellations
        self._cancel = cancel
        self._policy = policy
        self._policy_state = policy_state
        self._metrics = metrics
        self._restored = False

    async def prepare(self) -> None:
        """Before it is certain that this leader will lead, take in what waits; nobody hears of it."""
        await self._restore()
        self._adoption.doubts = NO_DOUBTS
        await self._take_in([t for t in self._queue_copy.requests() if t.id not in self._cancellations])

    async def learn(self) -> bool:
        """Learn what the leader before knew; whether the copy of the queue is true, so that order holds."""
        async with asyncio.TaskGroup() as tasks:
            records = tasks.create_task(self._attempts.load(), name="attempts of the leaders before")
            tasks.create_task(self._restore(), name="state of the policy")
            asking = tasks.create_task(self._takeover.ask_instances(), name="what instances run")
            copying = tasks.create_task(self._complete_copy(), name="copy of the queue")
            await asking
            doubted = tasks.create_task(self._takeover.unanswered_work(), name="work nobody tells of")
        self._adoption.records = records.result()
        ids, known_since_s = doubted.result()
        requests, unknown_up_to = self._queue_copy.take(known_since_s)
        complete = copying.result()
        self._adoption.doubts = Doubts(ids, unknown_up_to if complete else inf)
        outstanding = {tracked.sequence for tracked in requests}
        self._drop(tracked for tracked in self._table.all() if tracked.sequence not in outstanding)
        self._metrics.requests.arrived(await self._take_in(requests))
        return complete

    async def replay(self, limit_s: float, overdue: Callable[[], None]) -> None:
        """Wait for the consumer to bring everything, taking in what is new meanwhile; then what it did not bring
        had ended before. After `limit_s` call `overdue`, at every look.
        """
        until_s = time.monotonic() + limit_s
        while not self._intake.replayed.is_set():
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                await self._queue_copy.catch_up()
            inherited = [self._intake.inherit(tracked) for tracked in self._queue_copy.take(0.0)[0]]
            self._metrics.requests.arrived(sum(inherited))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_EVERY_S):
                    await self._intake.replayed.wait()
            if time.monotonic() > until_s:
                overdue()
        self._adoption.replaying = False
        unconfirmed = self._table.unconfirmed(self._intake.last_sequence)
        self._drop(tracked for tracked in unconfirmed if tracked.status is RequestStatus.QUEUED)

    async def _restore(self) -> None:
        if not self._restored:
            await self._policy_state.restore(self._policy)
            self._restored = True

    async def _complete_copy(self) -> bool:
        try:
            return await self._queue_copy.complete()
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            logger.warning("the copy of the queue cannot be completed, it is replayed: %r", error)
            return False
        finally:
            await self._queue_copy.end()

    async def _take_in(self, requests: list[TrackedRequest]) -> int:
        """Begin to answer for these; how many of them are ours to answer.

        What is here already goes another way if there is more to it by now.
        """
        ours = 0
        for first in range(0, len(requests), AT_ONCE):
            for tracked in requests[first : first + AT_ONCE]:
                if not self._table.holds(tracked):
                    ours += self._intake.inherit(tracked)
                    continue
                ours += 1
                if tracked.id in self._cancellations:
                    self._cancel(tracked.id)
                elif self._adoption.knows(tracked):
                    self._dispatcher.withdraw(tracked)
                    self._adoption.place(tracked)
            await asyncio.sleep(0)
        return ours

    def _drop(self, requests: Iterable[TrackedRequest]) -> None:
        """What waits here and has ended before."""
        for tracked in requests:
            self._dispatcher.withdraw(tracked)
            self._endings.drop(tracked)
