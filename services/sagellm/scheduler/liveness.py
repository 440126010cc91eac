"""Which instances live, and whether they and we agree on what runs there."""

import asyncio
import logging
import time

import nats.errors
import nats.js.errors

from sagellm.broker import Connection
from sagellm.scheduler.adoption import Adoption
from sagellm.scheduler.background import start
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.recovery import Recovery
from sagellm.scheduler.reports import Reports
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.scheduler.timings import Timings
from sagellm_schemas import (
    Codec,
    Control,
    EngineState,
    InstanceReport,
    InvalidRequest,
    RequestStatus,
    Unavailable,
    encode,
    subjects,
)

logger = logging.getLogger(__name__)


class Liveness:
    """Probes silent instances, fences dead ones, and settles differences, once a heartbeat interval."""

    def __init__(
        self,
        connection: Connection,
        table: RequestTable,
        instances: Instances,
        adoption: Adoption,
        recovery: Recovery,
        reports: Reports,
        dispatcher: Dispatcher,
        metrics: SchedulerMetrics,
        timings: Timings,
        term: int,
    ) -> None:
        self._connection = connection
        self._table = table
        self._instances = instances
        self._adoption = adoption
        self._recovery = recovery
        self._reports = reports
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._timings = timings
        self._term = term
        self._codec = Codec(InstanceReport)
        self._asking: set[str] = set()
        self._reconnected_s = 0.0

    async def run(self) -> None:
        """Check for as long as this leader leads."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._timings.heartbeat_interval_s)
                if not self._connection.connected:
                    continue
                for instance in self._instances.all():
                    if instance.id not in self._asking and self._is_doubtful(instance):
                        self._asking.add(instance.id)
                        start(tasks, self._ask(instance), f"asking {instance.id}")

    def _is_doubtful(self, instance: Instance) -> bool:
        silent_s = time.monotonic() - instance.heard_s
        return (
            silent_s > self._timings.probe_after_s
            or instance.term < self._term
            or instance.state is EngineState.STOPPED
            or bool(self._missing(instance))
            or bool(instance.strays)
        )

    def compare_running(self, instance: Instance) -> None:
        """After a heartbeat: what runs there against our orders, twice in a row, is a stray to be stopped.

        Once alone proves nothing: the heartbeat may be older than the end of the request.
        """
        if self._adoption.replaying:
            return
        suspects = {i for i in instance.running if i not in instance.assigned}
        instance.strays |= suspects & instance.suspects
        instance.suspects = suspects

    def reconnected(self) -> None:
        """NATS was away; instances may need a moment more than we did to come back."""
        self._reconnected_s = time.monotonic()

    def _missing(self, instance: Instance) -> list[TrackedRequest]:
        """Requests that should run there, and did not long after they were sent."""
        latest_s = instance.heard_s - self._timings.reconcile_after_s
        found = []
        for request_id in instance.assigned:
            tracked = self._table.get(request_id)
            if tracked is not None and request_id not in instance.running and tracked.dispatched_s < latest_s:
                found.append(tracked)
        return found

    async def _ask(self, instance: Instance) -> None:
        """One `Control` request, and what follows from its answer or silence."""
        try:
            missing = {tracked.id: tracked.attempt for tracked in self._missing(instance)}
            strays = list(instance.strays)
            instance.strays.clear()
            report = await self._control(instance, strays)
            if report is not None:
                self._instances.heard(report.heartbeat, time.monotonic())
                self._compare(instance, report, missing)
        except nats.errors.NoRespondersError:
            if time.monotonic() - self._reconnected_s > self._timings.reconnect_grace_s:
                await self._fence(instance, "has gone")
        except (nats.errors.Error, TimeoutError):
            if not self._connection.connected:
                return
            if time.monotonic() - instance.heard_s > self._timings.hung_after_s:
                await self._fence(instance, "does not answer")
        finally:
            self._asking.discard(instance.id)

    async def _control(self, instance: Instance, preempt: list[str]) -> InstanceReport | None:
        order = encode(Control(term=self._term, preempt=preempt))
        reply = await self._connection.nc.request(
            subjects.control(instance.id), order, timeout=self._timings.control_timeout_s
        )
        try:
            return self._codec.decode(reply.data)
        except InvalidRequest as error:
            logger.error("instance %s answers nonsense: %s", instance.id, error)
            return None

    def _compare(self, instance: Instance, report: InstanceReport, missing: dict[str, int]) -> None:
        for ended in report.ended:
            self._reports.ended(instance.id, ended)
        for request_id, attempt in missing.items():
            tracked = self._table.get(request_id)
            if (
                tracked is not None
                and tracked.status is RequestStatus.RUNNING
                and tracked.instance == instance.id
                and tracked.attempt == attempt
                and request_id not in report.heartbeat.running
            ):
                logger.warning("request %s never reached %s, sent again", request_id, instance.id)
                instance.release(request_id)
                self._recovery.returned(tracked)
        self._dispatcher.wake()

    async def _fence(self, instance: Instance, why: str) -> None:
        """The instance is dead to us: what ran there goes on elsewhere, and what it may still send is stale."""
        stopped = instance.state is EngineState.STOPPED
        if not stopped:
            logger.warning("instance %s %s; %d requests go on elsewhere", instance.id, why, len(instance.assigned))
            self._metrics.fenced.inc()
        self._instances.forget(instance)
        error = Unavailable(f"instance {instance.id} {why}").body()
        for request_id in instance.assigned:
            tracked = self._table.get(request_id)
            if tracked is None or tracked.status is not RequestStatus.RUNNING or tracked.instance != instance.id:
                continue
            if stopped:
                self._recovery.returned(tracked)
            else:
                self._recovery.failed(tracked, error)
        try:
            await self._connection.js.purge_stream(subjects.WORK_STREAM, subject=instance.work_subject)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as problem:
            logger.debug("the work of %s cannot be purged: %s", instance.id, problem)
