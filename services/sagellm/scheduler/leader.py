"""One term of leadership: the parts that exist only while this process leads, and how they are wired."""

import asyncio
import contextlib
import logging
import time
from math import inf

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, Message, Sender
from sagellm.scheduler.admission import Admission, Backlog, Bounds, Rates
from sagellm.scheduler.adoption import NO_DOUBTS, Adoption, Doubts
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.background import start
from sagellm.scheduler.cancellations import Cancellations
from sagellm.scheduler.dead_letters import DeadLetters
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.intake import Intake
from sagellm.scheduler.lease import LeaderLease
from sagellm.scheduler.liveness import Liveness
from sagellm.scheduler.management import Desk, InUse, KeptOrders, Orders, Queries
from sagellm.scheduler.metrics import SchedulerMetrics, take_snapshot
from sagellm.scheduler.models import Models
from sagellm.scheduler.pd import PdRouter, make_pd_policy
from sagellm.scheduler.policy_state import PolicyState
from sagellm.scheduler.preemption import Preemption
from sagellm.scheduler.queue_copy import QueueCopy
from sagellm.scheduler.recovery import Recovery
from sagellm.scheduler.rejections import Rejections
from sagellm.scheduler.replies import Replies
from sagellm.scheduler.reports import Reports
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.takeover import Takeover, release_unclaimed
from sagellm.scheduler.timings import Timings
from sagellm.settings import Settings
from sagellm_schemas import Control, RequestStatus, SageError, Snapshot, encode, sniff, subjects

logger = logging.getLogger(__name__)

AT_ONCE = 1000
CATCH_UP_EVERY_S = 0.1


class Leader:
    """Everything of one term. Made when the lease is won, thrown away when it is lost: no state survives but
    what is in NATS and what the workers know."""

    def __init__(
        self,
        settings: Settings,
        timings: Timings,
        connection: Connection,
        queue_connection: Connection,
        lease: LeaderLease,
        attempts: Attempts,
        models: Models,
        instances: Instances,
        cancellations: Cancellations,
        metrics: SchedulerMetrics,
        queue_copy: QueueCopy,
        estimates: Estimates,
        kept_orders: KeptOrders,
        term: int,
    ) -> None:
        self._timings = timings
        self._connection = connection
        self._lease = lease
        self._attempts = attempts
        self._cancellations = cancellations
        self._instances = instances
        self._metrics = metrics
        self.term = term
        self._open = False
        nc, js = connection.nc, connection.js
        self._table = RequestTable()
        self._sender = Sender(nc)
        replies = Replies(self._sender)
        dead_letters = DeadLetters(js, metrics, nc.max_payload)
        bounds = Bounds.of(settings)
        rates = Rates(bounds)
        self._endings = Endings(self._table, attempts, replies, self._sender, metrics, rates, term)
        self._in_use = InUse(settings, kept_orders, term)
        pd = PdRouter(make_pd_policy(settings.pd_policy), instances, estimates)
        preemption = Preemption(self._table, instances, estimates, self._sender, metrics, term)
        self._dispatcher = Dispatcher(
            self._in_use.policy,
            self._in_use.router,
            pd,
            self._endings,
            self._sender,
            metrics,
            estimates,
            term,
            nc.max_payload,
            self._may_dispatch,
            no_place=None if settings.preemption == "off" else preemption.make_room,
        )
        self._admission = Admission(
            bounds,
            Backlog(self._dispatcher, estimates.service_s, pd.capacity),
            rates,
            estimates.output_tokens,
            metrics.refused,
        )
        self._recovery = Recovery(
            nc,
            self._table,
            attempts,
            self._endings,
            dead_letters,
            metrics,
            timings,
            term,
            settings.max_attempts,
            self._dispatcher.enqueue,
        )
        self._adoption = Adoption(self._endings, self._recovery, self._dispatcher.enqueue)
        self._reports = Reports(
            self._table,
            instances,
            self._adoption,
            self._endings,
            self._recovery,
            self._dispatcher,
            preemption,
            metrics,
        )
        self._rejections = Rejections(
            models, dead_letters, replies, self._sender, metrics, self._accept, self._table.settled
        )
        self._intake = Intake(
            queue_connection,
            self._table,
            models,
            cancellations,
            self._rejections,
            self._endings,
            replies,
            self._sender,
            timings,
            metrics,
            self._judge,
            self._adoption.place,
        )
        self._liveness = Liveness(
            connection,
            self._table,
            instances,
            self._adoption,
            self._recovery,
            self._reports,
            self._dispatcher,
            metrics,
            timings,
            term,
        )
        self._queue_copy = queue_copy
        self._policy_state = PolicyState(attempts.bucket, lambda: self._in_use.policy)
        self._kept_orders = kept_orders
        queries = Queries(
            nc,
            self._table,
            self._dispatcher,
            instances,
            pd,
            estimates,
            self._in_use,
            kept_orders,
            self._may_dispatch,
            lambda: self._adoption.replaying,
        )
        orders = Orders(
            nc,
            self._sender,
            self._table,
            attempts,
            self._dispatcher,
            instances,
            self._policy_state,
            self._in_use,
            kept_orders,
            queries,
            self.cancel,
            term,
            timings.control_timeout_s,
        )
        self._desk = Desk(nc, self._sender, queries, orders)
        self._takeover = Takeover(connection, instances, self._adoption, timings, term)

        self._restored = False
        metrics.requests.fairness.nobody_waits()

    async def prepare(self) -> None:
        """Before it is certain that this leader will lead, take in what waits; nobody hears of it."""
        await self._restore()
        self._adoption.doubts = NO_DOUBTS
        await self._take_in([t for t in self._queue_copy.requests() if t.id not in self._cancellations])

    async def run(self) -> None:
        """Take over, then lead until the lease is lost or this task is cancelled.

        Raises:
            ExceptionGroup: with `LeaseLost`, or the reason why a part of it died.
        """
        reports = self._connection.nc.handling(subjects.ALL_REPORTS, self._reports.on_message)
        queries = self._connection.nc.handling(subjects.METRICS, self._on_metrics_query)
        try:
            async with reports, queries, self._desk.open(), asyncio.TaskGroup() as tasks:
                start(tasks, self._lease.keep(self._dispatcher.wake), "lease")
                start(tasks, self._dispatcher.run(), "dispatcher")
                start(tasks, self._rejections.run(), "rejections")
                start(tasks, self._recovery.run(), "recovery")
                start(tasks, self._attempts.run(), "attempts")
                if await self._learn():
                    self._open_dispatch()
                start(tasks, self._policy_state.run(), "state of the policy")
                start(tasks, self._intake.run(), "intake")
                await self._replay()
                start(tasks, self._liveness.run(), "liveness")
        finally:
            self._metrics.waiting.clear()

    async def _learn(self) -> bool:
        """Learn what the leader before knew; whether the copy of the queue is true."""
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
        self._drop_all_but(requests)
        self._metrics.requests.arrived(await self._take_in(requests))
        return complete

    async def _restore(self) -> None:
        if not self._restored:
            await self._policy_state.restore(self._in_use.policy)
            self._restored = True

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
                    self.cancel(tracked.id)
                elif self._adoption.knows(tracked):
                    self._dispatcher.withdraw(tracked)
                    self._adoption.place(tracked)
            await asyncio.sleep(0)
        return ours

    def _drop_all_but(self, requests: list[TrackedRequest]) -> None:
        """What was taken in before, and is not among these, has ended meanwhile."""
        outstanding = {tracked.sequence for tracked in requests}
        for tracked in self._table.all():
            if tracked.sequence not in outstanding:
                self._dispatcher.withdraw(tracked)
                self._endings.drop(tracked)

    async def _complete_copy(self) -> bool:
        try:
            return await self._queue_copy.complete()
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            logger.warning("the copy of the queue cannot be completed, it is replayed: %r", error)
            return False
        finally:
            await self._queue_copy.end()

    async def _replay(self) -> None:
        """Wait for the consumer to bring everything, taking in what is new meanwhile; then what it did not bring
        had ended before."""
        until_s = time.monotonic() + self._timings.replay_limit_s
        while not self._intake.replayed.is_set():
            with contextlib.suppress(TimeoutError, nats.errors.Error):
                await self._queue_copy.catch_up()
            inherited = [self._intake.inherit(tracked) for tracked in self._queue_copy.take(0.0)[0]]
            self._metrics.requests.arrived(sum(inherited))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_EVERY_S):
                    await self._intake.replayed.wait()
            if not self._open and time.monotonic() > until_s:
                logger.warning("the replay of the queue takes long: dispatching begins, in no strict order")
                self._open_dispatch()
        self._adoption.replaying = False
        for tracked in self._table.unconfirmed(self._intake.last_sequence):
            if tracked.status is RequestStatus.QUEUED:
                self._dispatcher.withdraw(tracked)
                self._endings.drop(tracked)
        self._open_dispatch()
        logger.info("leading in term %d with %d outstanding requests", self.term, len(self._table))

    def _open_dispatch(self) -> None:
        self._kept_orders.apply(self._instances.all())
        release_unclaimed(self._instances, self._table)
        self._open = True
        self._dispatcher.wake()

    def _may_dispatch(self) -> bool:
        return self._open and self._lease.valid and self._connection.connected

    def _accept(self, tracked: TrackedRequest) -> None:
        self._intake.accept(tracked)

    def _judge(self, tracked: TrackedRequest) -> SageError | None:
        """Why a request that comes now may not wait, if so.

        What comes with the replay may have been admitted by a leader before and is never refused; and only who
        certainly leads refuses, since another leader may have begun to answer.
        """
        if self._admission.unbounded or self._adoption.replaying or not self._lease.valid:
            return None
        return self._admission.judge(tracked, time.monotonic())

    def heartbeat(self, instance: Instance) -> None:
        """An instance was heard of."""
        self._kept_orders.apply((instance,))
        self._liveness.compare_running(instance)
        self._dispatcher.wake()

    def ask_for_prefixes(self, instance_id: str) -> None:
        """An update of what an instance holds was missed: let it tell everything."""
        order = Control(term=self.term, prefixes=True)
        self._sender.send(subjects.control(instance_id), encode(order))

    def cancel(self, request_id: str) -> None:
        """Cancel a request that is here; where it runs, its worker has heard it too."""
        tracked = self._table.get(request_id)
        if tracked is None:
            return
        if tracked.status is RequestStatus.RUNNING:
            tracked.cancelled = True
            return
        if tracked.status is RequestStatus.QUEUED:
            self._dispatcher.withdraw(tracked)
        self._endings.cancel(tracked)

    def reconnected(self) -> None:
        """NATS was away: whatever it would have sent meanwhile was missed."""
        self._liveness.reconnected()
        self._intake.remake()
        self._dispatcher.wake()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        for model, length in self._dispatcher.lengths().items():
            self._metrics.waiting.labels(model).set(length)
        self._metrics.outstanding.set(len(self._table))
        self._metrics.requests.fairness.sample()

    def _on_metrics_query(self, message: Message) -> None:
        if message.reply:
            self._sender.send(message.reply, encode(self.snapshot(), sniff(message.data)))

    def snapshot(self) -> Snapshot:
        """The metrics of this moment."""
        return take_snapshot(
            self._metrics,
            policy=self._in_use.policy.name,
            routing=self._in_use.router.name,
            outstanding=len(self._table),
            running=sum(len(instance.assigned) for instance in self._instances.all()),
            queue_lengths=self._dispatcher.lengths(),
        )
