"""One term of leadership: the parts that exist only while this process leads, and how they are wired."""

import asyncio
import logging
import time

from sagellm.broker import Connection, Message, Sender
from sagellm.scheduler.admission import Admission, Backlog, Bounds, Rates
from sagellm.scheduler.adoption import Adoption
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
from sagellm.scheduler.succession import Succession
from sagellm.scheduler.takeover import Takeover, release_unclaimed
from sagellm.scheduler.timings import Timings
from sagellm.settings import Settings
from sagellm_schemas import Control, RequestStatus, SageError, Snapshot, Unavailable, encode, sniff, subjects

logger = logging.getLogger(__name__)


class Leader:
    """Everything of one term. Made when the lease is won, or a little before, where the leader before is silent;
    thrown away when it is lost: no state survives but what is in NATS and what the workers know."""

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
        self._succession = Succession(
            queue_copy,
            self._table,
            self._intake,
            self._dispatcher,
            self._endings,
            self._adoption,
            attempts,
            Takeover(connection, instances, self._adoption, timings, term),
            cancellations,
            self.cancel,
            self._in_use.policy,
            self._policy_state,
            metrics,
        )
        metrics.requests.fairness.nobody_waits()

    async def prepare(self) -> None:
        """Before it is certain that this leader will lead, take in what waits; nobody hears of it."""
        await self._succession.prepare()

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
                if await self._succession.learn():
                    self._open_dispatch()
                start(tasks, self._policy_state.run(), "state of the policy")
                start(tasks, self._intake.run(), "intake")
                await self._succession.replay(self._timings.replay_limit_s, self._open_out_of_order)
                self._open_dispatch()
                logger.info("leading in term %d with %d outstanding requests", self.term, len(self._table))
                start(tasks, self._liveness.run(), "liveness")
        finally:
            self._metrics.waiting.clear()

    def _open_out_of_order(self) -> None:
        if not self._open:
            logger.warning("the replay of the queue takes long: dispatching begins, in no strict order")
            self._open_dispatch()

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
        if self._adoption.replaying or not self._lease.valid:
            return None
        model, adapter = tracked.request.model, tracked.request.adapter
        if self._instances.lacks_adapter(model, adapter):
            return Unavailable(f"no instance of {model!r} has the adapter {adapter!r} at present", param="adapter")
        if self._admission.unbounded:
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
