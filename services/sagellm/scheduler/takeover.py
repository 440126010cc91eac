"""Becoming the leader: fence the one before, and learn what runs, before anything is dispatched."""

import asyncio
import contextlib
import logging
import time

import nats.errors

from sagellm.broker import Connection, read_bucket
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
            self._instances.heard(report.heartbeat, time.monotonic())
            self._adoption.learn(report)


def release_unclaimed(instances: Instances, table: RequestTable) -> None:
    """After the replay: credits go back that are held by ids which are nobody's outstanding request."""
    for instance in instances.all():
        for request_id in list(instance.assigned):
            tracked = table.get(request_id)
            if tracked is None or tracked.status is not RequestStatus.RUNNING or tracked.instance != instance.id:
                instance.release(request_id)
