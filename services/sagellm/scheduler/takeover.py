"""Becoming the leader: fence the one before, and learn what runs, before anything is dispatched."""

import asyncio
import contextlib
import logging
import time
from math import inf

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, DirectReader, Stored, read_bucket
from sagellm.scheduler.adoption import Adoption
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.requests import RequestTable
from sagellm.scheduler.timings import Timings
from sagellm_schemas import (
    Codec,
    Control,
    InstanceInfo,
    InstanceReport,
    InvalidRequest,
    RequestStatus,
    WorkItem,
    encode,
    subjects,
)

logger = logging.getLogger(__name__)


class Takeover:
    """The questions a new leader asks before it acts."""

    def __init__(
        self, connection: Connection, instances: Instances, adoption: Adoption, timings: Timings, term: int
    ) -> None:
        self._connection = connection
        self._instances = instances
        self._adoption = adoption
        self._timings = timings
        self._answered: set[str] = set()
        self._order = encode(Control(term=term))
        self._codec = Codec(InstanceReport)

    async def ask_instances(self) -> None:
        """Tell every instance of the new term and learn what it runs; from then on it refuses older leaders.

        One that does not answer keeps what its latest heartbeat said; one that is not there is forgotten.
        """
        ids = {instance.id for instance in self._instances.all()} | await self._registered()
        await asyncio.gather(*(self._ask(instance_id) for instance_id in ids))
        for instance in self._instances.all():
            instance.strays.clear()
            instance.reassign(instance.running)

    async def _registered(self) -> set[str]:
        codec = Codec(InstanceInfo)
        found: set[str] = set()
        for value in (await read_bucket(self._connection.js, subjects.INSTANCES_BUCKET)).values():
            with contextlib.suppress(InvalidRequest):
                found.add(codec.decode(value).instance_id)
        return found

    async def _ask(self, instance_id: str) -> None:
        known = self._instances.get(instance_id)
        try:
            reply = await self._connection.nc.request(
                subjects.control(instance_id), self._order, timeout=self._timings.control_timeout_s
            )
            report = self._codec.decode(reply.data)
        except nats.errors.NoRespondersError:
            if known is not None:
                self._instances.forget(known)
        except (nats.errors.Error, TimeoutError, InvalidRequest) as error:
            logger.warning("instance %s did not answer the new leader: %s", instance_id, error)
            if known is not None:
                for request_id, attempt in known.running.items():
                    self._adoption.runs(request_id, attempt, instance_id)
        else:
            self._answered.add(subjects.token(instance_id))
            self._instances.heard(report.heartbeat, time.monotonic())
            self._adoption.learn(report)

    async def unanswered_work(self) -> tuple[frozenset[str], float]:
        """After the questions: ids of the work items at instances that did not answer, and since when this is
        known, in Unix seconds: items sent before are forgotten, for the work stream is younger.
        """
        try:
            info = await self._connection.js.stream_info(subjects.WORK_STREAM, subjects_filter=subjects.ALL_WORK)
        except nats.js.errors.NotFoundError:
            return frozenset(), inf
        reader, codec = DirectReader(self._connection, subjects.WORK_STREAM), Codec(WorkItem)
        ids: set[str] = set()
        for subject in info.state.subjects or {}:
            if subject.rpartition(".")[2] in self._answered:
                continue
            following = 1

            def learn(stored: Stored) -> None:
                nonlocal following
                following = stored.sequence + 1
                with contextlib.suppress(InvalidRequest):
                    ids.add(codec.decode(stored.message.data).request.id)

            while await reader.read(following, learn, subject=subject):
                pass
        return frozenset(ids), inf if info.created is None else info.created.timestamp()


def release_unclaimed(instances: Instances, table: RequestTable) -> None:
    """After the replay: credits go back that are held by ids which are nobody's outstanding request."""
    for instance in instances.all():
        for request_id in list(instance.assigned):
            tracked = table.get(request_id)
            if tracked is None or tracked.status is not RequestStatus.RUNNING or tracked.instance != instance.id:
                instance.release(request_id)
