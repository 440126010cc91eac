"""The examples are run as a user runs them, against the whole pipeline with the mock engine."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm.broker import Connection
from sagellm.ingress.main import run as run_ingress
from sagellm.scheduler.main import run as run_scheduler
from sagellm.settings import Settings
from sagellm.worker import run as run_worker
from sagellm_schemas import Codec, EngineState, InstanceStats, subjects

EXAMPLES = Path(__file__).parents[3] / "examples"
MODEL = "an/example.model"
SENTENCE = "Every good boy does fine. "
QUESTION = "What is NATS?"


@pytest.fixture
async def pipeline(settings: Settings, connection: Connection) -> AsyncIterator[Settings]:
    """Scheduler, worker and ingress, running."""
    settings = settings.model_copy(
        update={"engine": "mock", "model": MODEL, "mock_text": SENTENCE, "drain_timeout_s": 0.0, "port": 0}
    )
    ready, stop = asyncio.Event(), asyncio.Event()

    async def on_heartbeat(message) -> None:
        if Codec(InstanceStats).decode(message.data).state is EngineState.READY:
            ready.set()

    await connection.nc.subscribe(subjects.ALL_STATS, cb=on_heartbeat)
    async with contextlib.AsyncExitStack() as stack:
        scheduler = asyncio.create_task(run_scheduler(settings, stop))
        worker = asyncio.create_task(run_worker(settings, stop))
        stack.push_async_callback(asyncio.gather, scheduler, worker)
        stack.callback(stop.set)
        await asyncio.wait_for(ready.wait(), 20)
        # After the worker, so that it knows the model from the start.
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        ingress = asyncio.create_task(run_ingress(settings, stop, on_ready=listening.set_result))
        stack.push_async_callback(asyncio.gather, ingress)
        stack.callback(stop.set)
        await asyncio.wait_for(listening, 20)
        yield settings


async def output_of(*command: str, settings: Settings, cwd: Path) -> str:
    """What `command` prints; it must succeed."""
    token = settings.nats_token.get_secret_value() if settings.nats_token else ""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | {"NATS_URL": settings.nats_url, "NATS_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


def assert_answered_twice(printed: str) -> None:
    queue, service = printed.split("From the micro service:")
    for part in (queue.removeprefix("From the durable queue:"), service):
        answer, _, ending = part.strip().rpartition("\n")
        assert answer.startswith(SENTENCE)
        assert ending.startswith("[finished]")
        assert "completion_tokens" in ending


async def test_the_python_example_prints_both_answers(pipeline: Settings, tmp_path: Path) -> None:
    script = str(EXAMPLES / "python_client.py")
    assert_answered_twice(
        await output_of(sys.executable, script, MODEL, QUESTION, settings=pipeline, cwd=tmp_path)
    )


@pytest.fixture
async def javascript(tmp_path: Path) -> Path:
    """The example's folder with its dependencies installed."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed")
    folder = tmp_path / "javascript"
    shutil.copytree(EXAMPLES / "javascript", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = await asyncio.create_subprocess_exec(
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(install.communicate(), 120)
    assert install.returncode == 0, printed.decode()
    return folder


async def test_the_javascript_example_prints_both_answers(javascript: Path, pipeline: Settings) -> None:
    printed = await output_of("node", "client.mjs", MODEL, QUESTION, settings=pipeline, cwd=javascript)
    assert_answered_twice(printed)
