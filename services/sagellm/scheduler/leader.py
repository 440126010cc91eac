"""One term of leadership: the parts that exist only while this process leads, and how they are wired."""

import asyncio
import logging

from sagellm.broker import Connection, Sender
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
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.models import Models
from sagellm.scheduler.pd import PdRouter, make_pd_policy
from sagellm.scheduler.policies import PolicyOptions, make_policy
from sagellm.scheduler.recovery import Recovery
from sagellm.scheduler.rejections import Rejections
from sagellm.scheduler.replies import Replies
from sagellm.scheduler.reports import Reports
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.routing import make_router
from sagellm.scheduler.takeover import Takeover, release_unclaimed
from sagellm.scheduler.timings import Timings
from sagellm.settings import Settings
from sagellm_schemas import Control, RequestStatus, encode, subjects

logger = logging.getLogger(__name__)


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
        estimates: Estimates,
        term: int,
    ) -> None:
        self._timings = timings
        self._connection = connection
        self._lease = lease
        self._attempts = attempts
        self._instances = instances
        self._metrics = metrics
        self._term = term
        self._open = False
        nc, js = connection.nc, connection.js
        self._table = RequestTable()
        self._sender = Sender(nc)
        replies = Replies(self._sender)
        dead_letters = DeadLetters(js, metrics, nc.max_payload)
        self._endings = Endings(self._table, attempts, replies, self._sender, metrics, term)
        self._dispatcher = Dispatcher(
            make_policy(settings.policy, PolicyOptions.of(settings)),
            make_router(settings.routing),
            PdRouter(make_pd_policy(settings.pd_policy), instances, estimates),
            self._endings,
            self._sender,
            metrics,
            estimates,
            term,
            nc.max_payload,
            self._may_dispatch,
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
            self._table, instances, self._adoption, self._endings, self._recovery, self._dispatcher
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
        self._takeover = Takeover(connection, instances, self._adoption, timings, term)

    async def run(self) -> None:
        """Take over, then lead until the lease is lost or this task is cancelled.

        Raises:
            ExceptionGroup: with `LeaseLost`, or the reason why a part of it died.
        """
        reports = self._connection.nc.handling(subjects.ALL_REPORTS, self._reports.on_message)
        try:
            async with reports, asyncio.TaskGroup() as tasks:
                start(tasks, self._lease.keep(self._dispatcher.wake), "lease")
                start(tasks, self._dispatcher.run(), "dispatcher")
                await self._learn()
                start(tasks, self._rejections.run(), "rejections")
                start(tasks, self._recovery.run(), "recovery")
                start(tasks, self._attempts.run(), "attempts")
                start(tasks, self._intake.run(), "intake")
                await self._replay()
                start(tasks, self._liveness.run(), "liveness")
        finally:
            self._metrics.waiting.clear()

    async def _learn(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            records = tasks.create_task(self._attempts.load(), name="attempts of the leaders before")
            tasks.create_task(self._takeover.ask_instances(), name="what instances run")
        self._adoption.records = records.result()

    async def _replay(self) -> None:
        try:
            async with asyncio.timeout(self._timings.replay_limit_s):
                await self._intake.replayed.wait()
        except TimeoutError:
            logger.info("the queue is long: dispatching begins while its replay goes on")
            self._open_dispatch()
            await self._intake.replayed.wait()
        self._adoption.replaying = False
        release_unclaimed(self._instances, self._table)
        self._open_dispatch()
        logger.info("leading in term %d with %d outstanding requests", self._term, len(self._table))

    def _open_dispatch(self) -> None:
        self._open = True
        self._dispatcher.wake()

    def _may_dispatch(self) -> bool:
        return self._open and self._lease.valid and self._connection.connected

    def _accept(self, tracked: TrackedRequest) -> None:
        self._intake.accept(tracked)

    def heartbeat(self, instance: Instance) -> None:
        """An instance was heard of."""
        self._liveness.compare_running(instance)
        self._dispatcher.wake()

    def ask_for_prefixes(self, instance_id: str) -> None:
        """An update of what an instance holds was missed: let it tell everything."""
        order = Control(term=self._term, prefixes=True)
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
