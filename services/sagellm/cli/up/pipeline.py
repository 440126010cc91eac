"""The running pipeline: NATS, ingress, schedulers and workers, started together and drained in order."""

import asyncio
import contextlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

from sagellm.settings import Settings

from .broker import broker
from .child import Child, ChildRefused
from .output import Output
from .readiness import wait_until_ready

STOP_MARGIN_S = 5.0


class Pipeline:
    """Children by kind. `url` is where the ingress listens, `model` what the workers serve, once it is ready."""

    def __init__(
        self, settings: Settings, output: Output, *, workers: int, schedulers: int, embedded_nats: bool
    ) -> None:
        self.settings = settings
        self.embedded_nats = embedded_nats
        self.url = ""
        self.model = ""
        self.refused: asyncio.Future[ChildRefused] = asyncio.get_running_loop().create_future()
        """Done when a child says that it cannot run."""
        self._instances = [f"up-{secrets.token_hex(3)}-{i + 1}" for i in range(workers)]
        environment = settings.environment()
        share = environment | _share_of_the_machine(settings, workers)
        ports = _metrics_ports(settings)
        self.ingress = Child("ingress", ["ingress"], environment, output)
        self.schedulers = [
            Child(name, ["scheduler"], environment | next(ports), output)
            for name in numbered("scheduler", schedulers)
        ]
        self.workers = [
            Child(name, ["worker"], share | next(ports) | {"SAGELLM_INSTANCE_ID": instance}, output)
            for name, instance in zip(numbered("worker", workers), self._instances, strict=True)
        ]

    @property
    def children(self) -> list[Child]:
        """All of them; workers first, for they take longest to start."""
        return [*self.workers, self.ingress, *self.schedulers]

    async def ready(self) -> None:
        """Wait until every worker can take requests and the ingress answers."""
        self.url, self.model = await wait_until_ready(self.settings, self.ingress.first_line, self._instances)
        # If it has to be started again, it shall be where its clients are.
        self.ingress.environment["SAGELLM_PORT"] = str(urlsplit(self.url).port)

    async def serve(self, show: Coroutine[Any, Any, None], stop: asyncio.Event, *, stay: bool) -> None:
        """Run `show`, and with `stay` go on until `stop` is set, which also ends the show.

        Raises:
            ChildRefused: a child cannot run with its settings.
        """
        showing = asyncio.create_task(show, name="show")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            waiting: set[asyncio.Future[Any]] = {showing, stopping, self.refused}
            while not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self.refused in done:
                    raise self.refused.result()
                if showing in done:
                    showing.result()
                    if not stay:
                        return
        finally:
            for task in (showing, stopping):
                task.cancel()
            await asyncio.gather(showing, stopping, return_exceptions=True)

    async def keep(self, child: Child) -> None:
        """Run `child`; if it refuses, `refused` says so, and the others can still be drained."""
        try:
            await child.run()
        except ChildRefused as error:
            if not self.refused.done():
                self.refused.set_result(error)

    async def drain(self) -> None:
        """Stop taking requests, then finish or hand back what runs, then stop scheduling."""
        grace_s = self.settings.drain_timeout_s + STOP_MARGIN_S
        for group in ([self.ingress], self.workers, self.schedulers):
            await asyncio.gather(*(child.stop(grace_s) for child in group))


@contextlib.asynccontextmanager
async def pipeline(
    settings: Settings, output: Output, *, workers: int, schedulers: int
) -> AsyncIterator[Pipeline]:
    """Start everything; drain it when the context ends.

    Raises:
        SageError: inside an exception group: a part cannot run with these settings.
    """
    async with broker(settings, output) as joined, asyncio.TaskGroup() as tasks:
        running = Pipeline(
            joined, output, workers=workers, schedulers=schedulers, embedded_nats=joined is not settings
        )
        for child in running.children:
            tasks.create_task(running.keep(child), name=child.name)
        try:
            yield running
        finally:
            await running.drain()


def numbered(name: str, count: int) -> list[str]:
    """`name` alone, or `name-1`, `name-2`, … of several."""
    return [name] if count == 1 else [f"{name}-{i + 1}" for i in range(count)]


def _metrics_ports(settings: Settings) -> Iterator[dict[str, str]]:
    """A port for each: free ones, that their logs tell, or from the one that was set upwards."""
    first = settings.metrics_port
    for place in itertools.count():
        yield {"SAGELLM_METRICS_PORT": str(first + place if first else 0)}


def _share_of_the_machine(settings: Settings, workers: int) -> dict[str, str]:
    """Workers of one machine divide its cores: each taking all of them slows every one down."""
    if settings.threads is not None or workers == 1 or settings.engine != "sagellm":
        return {}
    return {"SAGELLM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
