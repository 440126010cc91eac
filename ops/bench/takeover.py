"""Takeover at size: the leading scheduler is killed while many requests wait, and a standby goes on.

    python ops/bench/takeover.py --json docs/benchmarks/takeover.json

A real nats-server with file storage, two real scheduler processes, and one worker that is part of this process
and runs a few requests at a time. A run waits until the standby has read the queue, kills the leader (SIGKILL) and
ends one running request; measured is the time from the kill until the worker has the first item of the new leader.
Then the worker ends each item as it comes, and the order of the first ones is compared with what the policy says.
The survivor leads the next run, beside a new standby.

Requests have random priorities, so the order is that of `priority` with ageing, which is also what `adaptive`
takes for such traffic. Besides the times the report has each scheduler's memory with an empty and a full queue.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import nats.errors
from nats.aio.msg import Msg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from sagellm.broker import Connection, Message, connect, embedded_server, ensure_topology
from sagellm.settings import Settings
from sagellm_schemas import (
    Codec,
    Control,
    Ended,
    EngineState,
    EngineStats,
    InferenceRequest,
    InstanceInfo,
    InstanceReport,
    InstanceStats,
    ModelCard,
    Outcome,
    SamplingParams,
    Snapshot,
    Usage,
    WorkItem,
    WorkReport,
    encode,
    subjects,
)

MODEL = "m"
PROMPT_TOKENS = 128
USERS = 500
CREDITS = 8
IN_FLIGHT = 256
PAUSE_S = 0.05


class Worker:
    """Takes items and keeps them; with `auto` it ends each as it comes."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._info = InstanceInfo(instance_id="bench", model=MODEL, max_concurrent_requests=CREDITS)
        self._items, self._orders = Codec(WorkItem), Codec(Control)
        self._ended: list[Ended] = []
        self._term = 0
        self.running: dict[str, WorkItem] = {}
        self.taken: list[tuple[float, WorkItem]] = []
        """Every item, and when it came."""
        self.auto = False
        self.wanted = 0
        self.enough = asyncio.Event()
        """Set once so many as are `wanted` have been taken; then it keeps what comes."""

    async def run(self) -> None:
        """Register, and work until cancelled."""
        nc, js = self._connection.nc, self._connection.js
        models = await js.key_value(subjects.MODELS_BUCKET)
        instances = await js.key_value(subjects.INSTANCES_BUCKET)
        await models.put(subjects.token(MODEL), encode(ModelCard(name=MODEL, max_model_len=4096)))
        await instances.put(subjects.token(self._info.instance_id), encode(self._info))
        await nc.handle(subjects.control(self._info.instance_id), self._on_order)
        work = subjects.work(self._info.role, self._info.instance_id)
        await js.subscribe(work, stream=subjects.WORK_STREAM, cb=self._on_item, manual_ack=True)
        while True:
            nc.send(subjects.stats(self._info.instance_id), encode(self._stats()))
            await asyncio.sleep(self._settings.heartbeat_interval_s)

    def end(self, item: WorkItem) -> None:
        """Report that an item has finished."""
        del self.running[item.request.id]
        usage = Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=1)
        ended = Ended(id=item.request.id, attempt=item.attempt, outcome=Outcome.FINISHED, usage=usage)
        self._ended = [*self._ended[-100:], ended]
        report = WorkReport(instance=self._info.instance_id, ended=[ended])
        self._connection.nc.send(subjects.reports(self._info.instance_id), encode(report))

    def _stats(self) -> InstanceStats:
        running = {request_id: item.attempt for request_id, item in self.running.items()}
        return InstanceStats(
            info=self._info,
            state=EngineState.READY,
            running=running,
            stats=EngineStats(),
            sent_at=time.time(),
            term=self._term,
        )

    async def _on_item(self, message: Msg) -> None:
        item = self._items.decode(message.data)
        self._connection.nc.send(message.reply, b"+ACK")
        if item.term < self._term:
            return
        self._term = item.term
        self.running[item.request.id] = item
        self.taken.append((time.monotonic(), item))
        if len(self.taken) == self.wanted:
            self.auto = False
            self.enough.set()
        if self.auto:
            self.end(item)

    def _on_order(self, message: Message) -> None:
        order = self._orders.decode(message.data)
        self._term = max(self._term, order.term)
        report = InstanceReport(heartbeat=self._stats(), ended=self._ended)
        self._connection.nc.send(message.reply, encode(report))


class Scheduler:
    """A scheduler process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._port = port

    @classmethod
    async def start(cls, settings: Settings) -> "Scheduler":
        """Start one."""
        port = _free_port()
        command = [sys.executable, "-m", "sagellm", "scheduler", "--metrics-port", str(port)]
        environment = os.environ | settings.environment()
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        return cls(process, port)

    async def kill(self) -> None:
        """As `kill -9` does."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def until_copied(self, waiting: int) -> None:
        """Wait until it knows of so many requests."""
        while True:
            if await asyncio.to_thread(self._outstanding) >= waiting:
                return
            await asyncio.sleep(PAUSE_S)

    def memory_mb(self) -> float:
        """Resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)

    def _outstanding(self) -> float:
        name = "sagellm_scheduler_outstanding_requests "
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/metrics") as page:
                lines = page.read().decode().splitlines()
        except URLError:
            return -1
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


async def fill(connection: Connection, first: int, count: int) -> None:
    """Publish requests of random priority, the same in every run, and wait until the stream has them."""
    draw, nc = random.Random(first), connection.nc
    prompts = [[draw.randrange(32_000) for _ in range(PROMPT_TOKENS)] for _ in range(100)]
    acknowledged = asyncio.Event()
    stored = 0

    def on_ack(message: Message) -> None:
        nonlocal stored
        stored += 1
        acknowledged.set()

    inbox = nc.new_inbox()
    async with nc.handling(inbox, on_ack):
        for sent in range(count):
            while sent - stored >= IN_FLIGHT:
                acknowledged.clear()
                await acknowledged.wait()
            request = InferenceRequest(
                model=MODEL,
                id=f"r{first + sent}",
                prompt_token_ids=draw.choice(prompts),
                sampling=SamplingParams(max_tokens=draw.randrange(1, 1024), seed=1),
                priority=draw.randrange(5),
                user_id=f"user-{draw.randrange(USERS)}",
                arrival_time=time.time(),
            )
            nc.send(subjects.requests(MODEL), encode(request), inbox, {subjects.MESSAGE_ID: request.id})
        while stored < count:
            acknowledged.clear()
            await acknowledged.wait()


async def queued(connection: Connection) -> int:
    """The length of the leader's queue; -1 while nobody leads."""
    try:
        reply = await connection.nc.request(subjects.METRICS, b"", timeout=1.0)
    except (nats.errors.Error, TimeoutError):
        return -1
    return Codec(Snapshot).decode(reply.data).queue_length


async def until_queued(connection: Connection, least: int) -> int:
    """Wait for a leader with at least so many waiting requests; returns their number."""
    while True:
        waiting = await queued(connection)
        if waiting >= least:
            return waiting
        await asyncio.sleep(PAUSE_S)


async def measure(waiting: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs at one length of the queue."""
    async with AsyncExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        most_bytes = Settings().max_message_bytes
        server = await stack.enter_async_context(embedded_server(store, max_payload_bytes=most_bytes))
        settings = Settings(nats_url=server.url, nats_token=SecretStr(server.token), policy=arguments.policy)
        connection = await stack.enter_async_context(connect(settings, "bench"))
        await ensure_topology(connection.js, settings)
        worker = Worker(settings, connection)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        working = tasks.create_task(worker.run())
        stack.callback(working.cancel)
        leader = await Scheduler.start(settings)
        stack.push_async_callback(leader.kill)
        await until_queued(connection, 0)
        empty_mb = leader.memory_mb()
        began_s = time.monotonic()
        await fill(connection, 0, waiting + CREDITS)
        await until_queued(connection, waiting)
        filled_s = time.monotonic() - began_s
        most = min(arguments.compared, waiting // (2 * arguments.repeat))
        runs = []
        for _ in range(arguments.repeat):
            standby = await Scheduler.start(settings)
            stack.push_async_callback(standby.kill)
            await standby.until_copied(await queued(connection))
            memory = {"leader_mb": leader.memory_mb(), "standby_mb": standby.memory_mb()}
            runs.append(await takeover(connection, worker, leader, most) | memory)
            leader = standby
            await leader.until_copied(await until_queued(connection, 0))
        return {"queued": waiting, "filled_s": round(filled_s, 1), "empty_mb": empty_mb, "runs": runs}


async def takeover(connection: Connection, worker: Worker, leader: Scheduler, compared: int) -> dict[str, Any]:
    """Kill the leader; how long until the next one dispatches, and whether in the right order."""
    waiting = await until_queued(connection, 0)
    worker.taken.clear()
    worker.wanted = compared
    worker.enough.clear()
    killed_s = time.monotonic()
    await leader.kill()
    worker.auto = True
    worker.end(next(iter(worker.running.values())))
    await worker.enough.wait()
    first_s = worker.taken[0][0]
    await until_queued(connection, 0)
    return {
        "waiting": waiting,
        "takeover_ms": round((first_s - killed_s) * 1000),
        "compared": len(worker.taken),
        "out_of_order": out_of_order([item for _, item in worker.taken]),
        "again": len(worker.taken) - len({item.request.id for _, item in worker.taken}),
    }


def out_of_order(items: list[WorkItem]) -> int:
    """How many items came after one that should have come later: by arrival, and ageing_s for each priority."""
    ageing_s = Settings().ageing_s
    keys = [item.request.arrival_time + ageing_s * int(item.request.priority) for item in items]
    return sum(after < before for before, after in pairwise(keys))


def main() -> None:
    """Measure, print, save."""
    arguments = _arguments()
    results = [asyncio.run(measure(waiting, arguments)) for waiting in arguments.queued]
    report = {
        "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
        "policy": arguments.policy,
        "prompt_tokens": PROMPT_TOKENS,
        "lease_ttl_s": Settings().lease_ttl_s,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    table = Table("queued", "takeover, ms: median", "min-max", "out of order", "again", "leader MB", "standby MB")
    for result in results:
        runs = result["runs"]
        times = [run["takeover_ms"] for run in runs]
        table.add_row(
            f"{result['queued']:,}",
            f"{statistics.median(times):,.0f}",
            f"{min(times):,}-{max(times):,}",
            str(sum(run["out_of_order"] for run in runs)),
            str(sum(run["again"] for run in runs)),
            f"{max(run['leader_mb'] for run in runs):.0f} (empty {result['empty_mb']:.0f})",
            f"{max(run['standby_mb'] for run in runs):.0f}",
        )
    Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--policy", default="adaptive", choices=("adaptive", "priority"))
    parser.add_argument("--compared", type=int, default=500, help="items whose order is checked in each run")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
