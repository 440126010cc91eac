"""The scheduler's life: a warm standby until it has the lease, a leader until it loses it, and so on."""

import asyncio
import logging
import time

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, Message, ensure_topology
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.background import STEP_DOWN, cancel, start
from sagellm.scheduler.cancellations import Cancellations
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.leader import Leader
from sagellm.scheduler.lease import LeaderLease, LeaseLost
from sagellm.scheduler.management import KeptOrders
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.models import CHANGES, Models
from sagellm.scheduler.prefix_feed import PrefixFeed
from sagellm.scheduler.queue_copy import QueueCopy
from sagellm.scheduler.timings import Timings
from sagellm.settings import Settings
from sagellm_schemas import BrokerError, Codec, InstanceStats, InvalidRequest, Snapshot, subjects

logger = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.2
DOUBTFUL = 0.6
"""A leader that is silent for this share of the lease's time, so that it missed two renewals, may be dead."""


class SchedulerService:
    """One scheduler process.

    Standby or not, it hears heartbeats, cancels and model cards, so that it knows nearly everything on the day
    it must lead. The durable queue comes over a connection of its own: what waits behind a long replay must not
    be the lease's renewal, or a heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        queue_connection: Connection,
        lease: LeaderLease,
        attempts: Attempts,
        models: Models,
        metrics: SchedulerMetrics,
        kept_orders: KeptOrders,
    ) -> None:
        self._settings = settings
        self._timings = Timings.of(settings)
        self._connection = connection
        self._queue_connection = queue_connection
        self._lease = lease
        self._attempts = attempts
        self._models = models
        self._metrics = metrics
        self._kept_orders = kept_orders
        self._instances = Instances()
        self._prefix_feed = PrefixFeed(self._instances, self._ask_for_prefixes)
        self._estimates = metrics.estimates = Estimates()
        self._cancellations = Cancellations()
        self._heartbeats = Codec(InstanceStats)
        self._reconnected = asyncio.Event()
        self._queue_copy = QueueCopy(queue_connection)
        self._leader: Leader | None = None
        self._heir: Leader | None = None

    async def run(self) -> None:
        """Stand by and lead in turn, until cancelled; then give the lease up."""
        nc = self._connection.nc
        await nc.handle(subjects.ALL_STATS, self._on_heartbeat)
        await nc.handle(subjects.ALL_PREFIXES, self._prefix_feed.on_message)
        await nc.handle(subjects.CANCEL, self._on_cancel)
        await nc.handle(CHANGES, self._models.on_change)
        self._connection.on_reconnect(self._on_reconnect)
        self._queue_connection.on_reconnect(self._on_reconnect)
        await self._models.load()
        async with asyncio.TaskGroup() as tasks:
            start(tasks, self._lead_in_turn(), "leadership")
            start(tasks, self._catch_up(), "catching up after reconnections")
            start(tasks, self._tidy(), "tidying")

    async def _lead_in_turn(self) -> None:
        try:
            while True:
                logger.info("standing by")
                await self._stand_by()
                try:
                    await self._lead()
                except* LeaseLost as lost:
                    logger.warning("leadership lost: %s; standing by", lost.exceptions[0])
                except* STEP_DOWN as failed:
                    logger.warning("leadership given up, NATS fails: %r; standing by", failed.exceptions[0])
                    self._reconnected.set()
                    await asyncio.sleep(RETRY_PAUSE_S)
                finally:
                    self._leader = None
                    self._metrics.leader.set(0)
                    await self._lease.release()
        finally:
            await self._lease.release()

    async def _stand_by(self) -> None:
        """Copy the queue until the lease is ours."""
        await self._queue_copy.begin()
        following = asyncio.create_task(self._queue_copy.follow(), name="copying the queue")
        preparing = asyncio.create_task(self._prepare(), name="preparing to lead")
        try:
            await self._lease.acquire()
        finally:
            await cancel(following)
            await cancel(preparing)

    async def _prepare(self) -> None:
        """While the leader is silent, get ready for its death: what can be done now need not be done then."""
        while True:
            await asyncio.sleep(self._timings.lease_ttl_s / 20)
            if self._lease.silent_s < DOUBTFUL * self._timings.lease_ttl_s:
                self._heir = None
            elif self._heir is None:
                try:
                    self._heir = await self._make_leader()
                    await self._heir.prepare()
                except STEP_DOWN as error:
                    logger.debug("a takeover cannot be prepared: %r", error)
                    self._heir = None

    async def _lead(self) -> None:
        heir, self._heir = self._heir, None
        if heir is None or heir.term != await self._attempts.term():
            heir = await self._make_leader()
        self._lease.name_term(heir.term)
        self._metrics.leader.set(1)
        self._metrics.takeovers.inc()
        self._leader = heir
        await heir.run()

    async def _make_leader(self) -> Leader:
        term, _ = await asyncio.gather(self._attempts.next_term(), self._kept_orders.load())
        return Leader(
            self._settings,
            self._timings,
            self._connection,
            self._queue_connection,
            self._lease,
            self._attempts,
            self._models,
            self._instances,
            self._cancellations,
            self._metrics,
            self._queue_copy,
            self._estimates,
            self._kept_orders,
            term,
        )

    async def _tidy(self) -> None:
        """Once a second: gauges; and a standby forgets instances that are silent (a leader probes them)."""
        while True:
            await asyncio.sleep(1.0)
            self._metrics.count_instances(self._instances.all())
            self._prefix_feed.forget_gone()
            if self._leader is not None:
                self._leader.measure()
                continue
            self._metrics.outstanding.set(len(self._queue_copy))
            for instance in self._instances.all():
                if time.monotonic() - instance.heard_s > self._timings.hung_after_s:
                    self._instances.forget(instance)

    def snapshot(self) -> Snapshot:
        """The metrics of this moment; those of a standby say that it does not lead."""
        if self._leader is not None:
            return self._leader.snapshot()
        return Snapshot(taken_at=time.time(), window_s=0.0, leader=False)

    def _on_heartbeat(self, message: Message) -> None:
        try:
            stats = self._heartbeats.decode(message.data)
        except InvalidRequest as error:
            logger.warning("a heartbeat on %s cannot be read: %s", message.subject, error)
            return
        instance = self._instances.heard(stats, time.monotonic())
        self._estimates.heard(stats)
        if self._leader is not None:
            self._leader.heartbeat(instance)

    def _ask_for_prefixes(self, instance_id: str) -> None:
        if self._leader is not None:
            self._leader.ask_for_prefixes(instance_id)

    def _on_cancel(self, message: Message) -> None:
        for request_id in self._cancellations.read(message):
            if self._leader is not None:
                self._leader.cancel(request_id)

    async def _on_reconnect(self) -> None:
        self._reconnected.set()

    async def _catch_up(self) -> None:
        """After every reconnection: what NATS kept in memory may be gone, and what it sent was missed."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            try:
                await ensure_topology(self._connection.js, self._settings)
                await self._models.load()
            except (BrokerError, nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("NATS is not ready yet: %s", error)
                await asyncio.sleep(RETRY_PAUSE_S)
                self._reconnected.set()
                continue
            if self._leader is not None:
                self._leader.reconnected()
