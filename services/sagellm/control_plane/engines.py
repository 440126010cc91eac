"""The registered instances, and their workers while the manager runs."""

import asyncio
import secrets
from collections.abc import Callable

from sagellm.settings import Settings
from sagellm_schemas import InstanceStats, InvalidRequest, SageError, subjects

from .engine import Engine
from .instance import ExecutionInstance
from .instance_settings import worker_settings
from .pipeline import Pipeline

Failed = Callable[[str, SageError], None]


class Engines:
    """Instances by id. `model_failed` is called with a model whose last engine has died."""

    def __init__(self, settings: Settings, model_failed: Failed) -> None:
        self._settings = settings
        self._model_failed = model_failed
        self._instances: dict[str, ExecutionInstance] = {}
        self._engines: dict[str, Engine] = {}
        self._by_worker: dict[str, Engine] = {}
        """Also those of instances that were taken out, until they have stopped."""
        self._pipeline: Pipeline | None = None

    def register(self, instance: ExecutionInstance) -> None:
        """Make an instance known; while the manager runs, its worker starts.

        Raises:
            SageError: the instance cannot be used, or its id is taken.
        """
        settings = worker_settings(instance, self._settings)
        key = subjects.token(instance.instance_id)
        if key in self._instances:
            raise InvalidRequest(
                f"an instance {instance.instance_id!r} is registered already", param="instance_id"
            )
        self._instances[key] = instance
        if self._pipeline is not None:
            self._launch(key, settings)

    def launch(self, pipeline: Pipeline) -> None:
        """Start the workers of all instances, and from now on those of new ones."""
        self._pipeline = pipeline
        self._settings = pipeline.settings
        for key, instance in self._instances.items():
            self._launch(key, worker_settings(instance, pipeline.settings))

    def forget(self, instance_id: str) -> Engine | None:
        """Take an instance out at once; its engine, if it has one, is to be given to `retire`.

        Raises:
            InvalidRequest: there is no such instance.
        """
        key = self._key(instance_id)
        del self._instances[key]
        return self._engines.pop(key, None)

    async def retire(self, engine: Engine, timeout_s: float) -> bool:
        """Drain and stop an engine; see `Engine.retire`."""
        try:
            return await engine.retire(timeout_s)
        finally:
            self._by_worker.pop(engine.worker, None)

    def engine(self, instance_id: str) -> Engine | None:
        """The engine of an instance, while the manager runs.

        Raises:
            InvalidRequest: there is no such instance.
        """
        return self._engines.get(self._key(instance_id))

    def all(self) -> list[ExecutionInstance]:
        """Every registered instance."""
        return list(self._instances.values())

    def models(self) -> list[str]:
        """The models of the registered instances."""
        return sorted({instance.model_name for instance in self._instances.values()})

    def serves(self, model: str) -> bool:
        """Whether an engine of `model` has been ready: from then on the scheduler knows the model."""
        return any(e.latest is not None and e.instance.model_name == model for e in self._engines.values())

    def failure(self, model: str) -> SageError | None:
        """Why `model` will not be served: the reason of the last of its engines, if all have died."""
        failures = [e.failure for e in self._engines.values() if e.instance.model_name == model]
        return failures[-1] if failures and all(failures) else None

    def worker_id(self, instance_id: str | None) -> str | None:
        """The id under which the scheduler knows an instance; another name stays as it is."""
        engine = self._engines.get(subjects.token(instance_id)) if instance_id else None
        return engine.latest.info.instance_id if engine and engine.latest else instance_id

    def heard(self, stats: InstanceStats) -> Engine | None:
        """Take in a heartbeat; the engine it is of, if it is one of ours."""
        engine = self._by_worker.get(stats.info.instance_id.rpartition("-")[0])  # the worker adds a random part
        if engine is not None:
            engine.heard(stats)
        return engine

    async def stop(self) -> None:
        """Stop every worker at once, with what still runs in it."""
        engines = list(self._by_worker.values())
        self._engines.clear()
        self._pipeline = None
        await asyncio.gather(*(engine.retire(0.0) for engine in engines))
        self._by_worker.clear()

    def _key(self, instance_id: str) -> str:
        key = subjects.token(instance_id)
        if key not in self._instances:
            known = ", ".join(instance.instance_id for instance in self._instances.values()) or "none"
            raise InvalidRequest(f"there is no instance {instance_id!r}; registered: {known}", param="instance_id")
        return key

    def _launch(self, key: str, settings: Settings) -> None:
        assert self._pipeline is not None
        worker = f"{key}-{secrets.token_hex(3)}"  # also where an instance of that id is still leaving
        engine = Engine(
            self._instances[key],
            settings.model_copy(update={"instance_id": worker}),
            worker,
            self._pipeline.connection,
            self._pipeline.reports,
            self._on_end,
        )
        self._engines[key] = self._by_worker[worker] = engine

    def _on_end(self, model: str) -> None:
        if reason := self.failure(model):
            self._model_failed(model, reason)
