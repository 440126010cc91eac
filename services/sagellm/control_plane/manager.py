"""`ControlPlaneManager`: the original's face, over the real pipeline in one process."""

import asyncio
import logging
import warnings
from pathlib import Path

from sagellm.broker import Message
from sagellm.management import Management
from sagellm.scheduler.main import run as run_scheduler
from sagellm.scheduler.management import KeptOrders, Switch
from sagellm.scheduler.policies import make_policy
from sagellm.scheduler.routing import make_router
from sagellm.settings import Settings
from sagellm_schemas import (
    Codec,
    InstanceReport,
    InstanceStats,
    InvalidRequest,
    ModelNotFound,
    RequestStatus,
    SageError,
    SettingsError,
    SwitchOrder,
    Unavailable,
    subjects,
)

from .answer import Answer
from .engines import Engines
from .instance import ExecutionInstance
from .metrics import PerformanceMetrics, Recorder
from .pipeline import Pipeline, open_pipeline
from .request import RequestMetadata, to_wire
from .result import RequestResult
from .submissions import Submissions
from .switching import Switching

logger = logging.getLogger(__name__)


class ControlPlaneManager:
    """Registers engines, takes requests, and runs them in the order of a policy.

    `start` brings up NATS, a scheduler, and a worker for every registered instance, all within this process but
    the NATS server; every request goes through the durable queue. All methods belong to one event loop.
    """

    def __init__(
        self,
        scheduling_policy: str = "adaptive",
        routing_strategy: str = "load_balanced",
        enable_pd_separation: bool = False,
        pd_config: object | None = None,
        enable_auto_scaling: bool = False,
        autoscaler_config: object | None = None,
        enable_monitoring: bool = True,
        *,
        nats_url: str | None = None,
        state_dir: str | Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        """
        `nats_url` joins a NATS server that runs; otherwise one is embedded, which keeps its queue in `state_dir`,
        or in a temporary folder. `settings` are the base of all else; by default those of the environment.

        Raises:
            SettingsError: no such policy or strategy, an option that is not supported, or a wrong setting.
        """
        if enable_auto_scaling or autoscaler_config is not None:
            raise SettingsError(
                "auto-scaling is not supported: leave enable_auto_scaling and autoscaler_config out, and call "
                "register_instance and stop_engine_gracefully yourself"
            )
        if enable_pd_separation or pd_config is not None:
            warnings.warn(
                "prefill and decode are not separated here: every instance runs both phases of its requests",
                stacklevel=2,
            )
        if not enable_monitoring:
            warnings.warn("enable_monitoring=False has no effect: metrics cost next to nothing", stacklevel=2)
        make_policy(scheduling_policy)
        make_router(routing_strategy)
        base = settings or Settings.load()
        given = {name: getattr(base, name) for name in base.model_fields_set}
        given |= {"policy": scheduling_policy, "routing": routing_strategy, "metrics_port": None}
        given |= {n: v for n, v in (("nats_url", nats_url), ("state_dir", state_dir)) if v is not None}
        self._settings = Settings.load(**given)
        self._recorder = Recorder()
        self._engines = Engines(self._settings, self._on_model_failed)
        self._submissions: Submissions | None = None
        self._accepting = False
        self._switching: Switching | None = None
        self._heartbeats: Codec[InstanceStats] = Codec(InstanceStats)
        self._reports: Codec[InstanceReport] = Codec(InstanceReport)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[bool]] = set()

    async def start(self) -> None:
        """Bring everything up. Returns when requests are taken; engines may still be loading.

        Raises:
            SageError: NATS cannot be started or used, or the manager runs already.
        """
        if self._running is not None and not self._running.done():
            raise InvalidRequest("the manager runs already")
        self._stop = asyncio.Event()
        up = asyncio.Event()
        self._running = asyncio.create_task(self._run(up), name="control plane")
        waiting = asyncio.create_task(up.wait(), name="control plane start")
        await asyncio.wait([self._running, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not up.is_set():
            await self._running

    async def stop(self) -> None:
        """Cancel what is open, and bring everything down. Does nothing where nothing runs."""
        self._stop.set()
        if self._running is not None:
            await asyncio.wait([self._running])

    async def submit_request(self, request: RequestMetadata) -> str:
        """Put a request into the durable queue; its id.

        A request of a registered instance's model that is not ready yet is held back until it is.

        Raises:
            SageError: the request is wrong, the queue is full, or the manager does not run.
        """
        if self._switching is not None:
            await self._switching.done()
        submissions = self._submissions
        if submissions is None or not self._accepting:
            raise Unavailable("the control plane does not run; `await manager.start()` first")
        model = request.model_name or self._only_model()
        preferred = self._engines.worker_id(request.preferred_instance_id)
        wire = to_wire(request, model, submissions.reply_to, preferred)
        await submissions.submit(Answer(request, asyncio.get_running_loop()), wire)
        return wire.id

    async def process_request(self, request: RequestMetadata) -> RequestResult:
        """Submit a request, and wait for its result.

        Raises:
            SageError: see `submit_request`. A request that fails later has a result that says so.
        """
        return await self.get_result(await self.submit_request(request))

    async def get_result(self, request_id: str) -> RequestResult:
        """The result of a request, once it has ended.

        Raises:
            InvalidRequest: there is no such request, or it ended long ago.
        """
        return await self._answer(request_id).wait()

    async def get_request_status(self, request_id: str) -> RequestStatus | None:
        """Where a request is in its life; None if it is not known here."""
        answer = self._submissions.get(request_id) if self._submissions else None
        return answer.status if answer else None

    async def cancel_request(self, request_id: str) -> bool:
        """Cancel a request wherever it is; False if it has ended, or is not known."""
        answer = self._submissions.get(request_id) if self._submissions else None
        if self._submissions is None or answer is None or answer.result is not None:
            return False
        self._submissions.cancel(answer)
        return True

    def register_instance(self, instance: ExecutionInstance) -> bool:
        """Make an instance known; while the manager runs, its worker starts at once.

        Raises:
            SageError: the instance cannot be used, or its id is taken.
        """
        self._engines.register(instance)
        return True

    def unregister_instance(self, instance_id: str) -> bool:
        """Take an instance out: it finishes what it runs, within `drain_timeout_s`. False if there is none."""
        try:
            engine = self._engines.forget(instance_id)
        except InvalidRequest:
            return False
        if engine is not None:
            retiring = asyncio.create_task(self._engines.retire(engine, self._settings.drain_timeout_s))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        return True

    def start_engine_drain(self, engine_id: str) -> bool:
        """Let an instance take no new requests; False if it is not running.

        Raises:
            InvalidRequest: there is no such instance.
        """
        engine = self._engines.engine(engine_id)
        return engine is not None and engine.drain()

    async def stop_engine_gracefully(self, engine_id: str, timeout: float = 30.0) -> bool:
        """Drain an instance for at most `timeout` seconds, stop it, and forget it.

        Tells whether it had finished in time; what had not goes to other instances.

        Raises:
            InvalidRequest: there is no such instance.
        """
        engine = self._engines.forget(engine_id)
        return engine is None or await self._engines.retire(engine, timeout)

    def update_policy(self, policy_name: str) -> None:
        """Order the queue by another policy, at the latest when the next request is submitted.

        It is the leading scheduler that switches, also where that is in another process.

        Raises:
            SettingsError: there is no such policy.
        """
        make_policy(policy_name)
        self._settings = self._settings.model_copy(update={"policy": policy_name})
        if self._switching is not None:
            self._switching.order(SwitchOrder(policy=policy_name))

    def get_metrics(self) -> PerformanceMetrics:
        """Counts and latencies of the requests that were submitted here."""
        return self._recorder.metrics(self._submissions.open() if self._submissions else (), self._engines.all())

    def get_instances(self) -> list[ExecutionInstance]:
        """The registered instances, with their loads as the latest heartbeats told them."""
        return self._engines.all()

    def get_status(self) -> dict[str, object]:
        """Whether it runs, with which policy and strategy, and how much there is to do."""
        metrics, instances = self.get_metrics(), self._engines.all()
        return {
            "running": self._accepting,
            "scheduling_policy": self._settings.policy,
            "routing_strategy": self._settings.routing,
            "pending_requests": metrics.queued_requests,
            "running_requests": metrics.active_requests,
            "total_instances": len(instances),
            "available_instances": sum(instance.can_accept_request for instance in instances),
        }

    async def _run(self, up: asyncio.Event) -> None:
        try:
            async with open_pipeline(self._settings) as pipeline:
                try:
                    await self._serve(pipeline, up)
                except ExceptionGroup as group:
                    reason = group.exceptions[0]
                    logger.error("the control plane has stopped: %s", reason)
                    if self._submissions is not None:
                        self._submissions.fail_all(Unavailable(f"the control plane has stopped: {reason}").body())
                    raise reason from group
                finally:
                    await self._close()
        finally:
            self._accepting = False

    async def _serve(self, pipeline: Pipeline, up: asyncio.Event) -> None:
        """Until `stop`, or until the scheduler dies."""
        if pipeline.embedded:  # forget what an earlier manager has switched to, in the same folder
            js = pipeline.connection.js
            await KeptOrders(js, await js.key_value(subjects.ORDERS_BUCKET)).use(Switch())
        stop_scheduler = asyncio.Event()
        heartbeats = pipeline.connection.nc.handling(subjects.ALL_STATS, self._on_heartbeat)
        reports = pipeline.connection.nc.handling(pipeline.reports, self._on_report)
        async with heartbeats, reports, asyncio.TaskGroup() as tasks:
            late = tasks.create_task(pipeline.publisher.give_up_late(), name="publish timeouts")
            tasks.create_task(run_scheduler(pipeline.settings, stop_scheduler), name="scheduler")
            self._switching = Switching(Management(pipeline.connection.nc))
            self._submissions = Submissions(pipeline, self._recorder, self._takes, self._engines.failure)
            self._accepting = True
            self._engines.launch(pipeline)
            up.set()
            await self._stop.wait()
            await self._close()
            stop_scheduler.set()
            late.cancel()

    async def _close(self) -> None:
        """End all requests, then all workers."""
        self._accepting = False
        if self._switching is not None:
            await self._switching.close()
            self._switching = None
        if self._submissions is not None:
            self._submissions.cancel_all()
        await self._engines.stop()
        if self._retiring:
            await asyncio.wait(self._retiring)

    def _on_heartbeat(self, message: Message) -> None:
        try:
            stats = self._heartbeats.decode(message.data)
        except InvalidRequest as error:
            logger.warning("a heartbeat cannot be read: %s", error)
            return
        self._heard(stats)

    def _on_report(self, message: Message) -> None:
        """A worker's answer to an order."""
        try:
            self._heard(self._reports.decode(message.data).heartbeat)
        except InvalidRequest as error:
            logger.warning("a report cannot be read: %s", error)

    def _heard(self, stats: InstanceStats) -> None:
        engine = self._engines.heard(stats)
        if self._submissions is not None:
            self._submissions.running(stats.running)
            if engine is not None and engine.ready:
                self._submissions.release(engine.instance.model_name)

    def _on_model_failed(self, model: str, reason: SageError) -> None:
        if self._submissions is not None:
            self._submissions.refuse(model, reason.body())

    def _takes(self, model: str) -> bool:
        """Whether requests of `model` go into the queue; the scheduler knows models of workers elsewhere."""
        return self._engines.serves(model) or model not in self._engines.models()

    def _only_model(self) -> str:
        models = self._engines.models()
        if len(models) != 1:
            known = ", ".join(models) or "none"
            raise ModelNotFound(f"the request needs a model_name; registered models: {known}", param="model_name")
        return models[0]

    def _answer(self, request_id: str) -> Answer:
        answer = self._submissions.get(request_id) if self._submissions else None
        if answer is None:
            raise InvalidRequest(f"there is no request {request_id!r}", param="request_id")
        return answer
