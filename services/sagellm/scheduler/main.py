"""The scheduler service, wired."""

import asyncio
import logging
import os
import secrets
import socket

from sagellm.broker import connect, ensure_topology
from sagellm.exposition import serve_metrics
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.background import cancel
from sagellm.scheduler.lease import LeaderLease
from sagellm.scheduler.management import KeptOrders
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.models import Models
from sagellm.scheduler.pd import make_pd_policy
from sagellm.scheduler.policies import make_policy
from sagellm.scheduler.routing import make_router
from sagellm.scheduler.service import SchedulerService
from sagellm.settings import Settings
from sagellm_schemas import SageError, subjects

logger = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Schedule until `stop` is set, then give up the lease and return.

    Raises:
        SettingsError: there is no such policy, routing strategy or PD policy, or the metrics port is taken.
        BrokerError: NATS cannot be used.
        SageError: a part of the scheduler died; the log has the details.
    """
    make_policy(settings.policy)
    make_router(settings.routing)
    make_pd_policy(settings.pd_policy)
    name = f"scheduler-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    metrics = SchedulerMetrics(settings.tier_weights)
    async with connect(settings, name) as connection, connect(settings, f"{name}-queue") as queue_connection:
        js = connection.js
        await ensure_topology(js, settings)
        attempts = Attempts(js, await js.key_value(subjects.ATTEMPTS_BUCKET))
        lease = LeaderLease(await js.key_value(subjects.LEASE_BUCKET), name, settings.lease_ttl_s)
        models = Models(js, await js.key_value(subjects.MODELS_BUCKET))
        kept_orders = KeptOrders(js, await js.key_value(subjects.ORDERS_BUCKET))
        service = SchedulerService(
            settings, connection, queue_connection, lease, attempts, models, metrics, kept_orders
        )
        with serve_metrics(metrics.registry, settings.host, settings.metrics_port):
            await _until(stop, service)


async def _until(stop: asyncio.Event, service: SchedulerService) -> None:
    serving = asyncio.create_task(service.run(), name="scheduler")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await cancel(serving)
    error = None if serving.cancelled() else serving.exception()
    if error is not None:
        reason = _first(error)
        raise SageError(f"the scheduler stopped: {type(reason).__name__}: {reason}") from error


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
