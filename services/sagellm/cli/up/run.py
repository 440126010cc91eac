"""Runs a pipeline with something to show in the foreground, from the first process to the last."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from sagellm.cli.errors import reason_of
from sagellm.cli.exits import EXIT_FORCED
from sagellm.cli.serve import loop_factory
from sagellm.settings import Settings

from .model import fetch_model
from .output import Output
from .pipeline import Pipeline, numbered, pipeline

Show = Callable[[Pipeline, Output], Awaitable[None]]


def run_pipeline(
    settings: Settings, show: Show, *, workers: int, schedulers: int, stay: bool, quiet: bool = False
) -> None:
    """Start the pipeline, run `show` once it answers, and drain it: after the show, or with `stay` on a signal.

    A second signal ends everything at once. `quiet` hides the services' logs.

    Raises:
        SageError: something cannot run like this; everything that had started is stopped.
    """
    names = ["ingress", *numbered("scheduler", schedulers), *numbered("worker", workers)]
    output = Output(names, quiet=quiet)
    fetch_model(settings)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(settings, show, output, workers=workers, schedulers=schedulers, stay=stay))
    except BaseExceptionGroup as group:
        reason = reason_of(group)
        if reason is None:
            raise
        raise reason from None


async def _run(
    settings: Settings, show: Show, output: Output, *, workers: int, schedulers: int, stay: bool
) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(EXIT_FORCED)  # the kernel ends the children with us
        output.say("draining; once more to stop at once")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)

    async def show_when_ready(running: Pipeline) -> None:
        await running.ready()
        await show(running, output)

    async with pipeline(settings, output, workers=workers, schedulers=schedulers) as running:
        await running.serve(show_when_ready(running), stop, stay=stay)
    output.say("stopped")
