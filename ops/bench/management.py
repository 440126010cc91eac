"""What operators' questions cost the leading scheduler with a long queue: CPU time, and the longest piece of it.

    python ops/bench/management.py [--waiting 100000] [--instances 1000] [--policies priority slo_aware adaptive]

No broker: the questions are asked of `Queries` itself, beside a task that notices how long it has to wait for its
turn. Time is that of the thread, so other programs on the machine do not count.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.management import InUse, Queries
from sagellm.scheduler.management.kept_orders import Switch
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.pd import PdRouter, make_pd_policy
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm.settings import Settings
from sagellm_schemas import (
    EngineState,
    EngineStats,
    InferenceRequest,
    InstanceInfo,
    InstanceStats,
    QueueQuery,
    RequestQuery,
    RequestsQuery,
    RequestStatus,
)

CREDITS = 64


def queries(policy: str, waiting: int, instances: int) -> Queries:
    """A leader's knowledge: every instance full, and `waiting` requests of 500 users behind."""
    estimates, known, table = Estimates(), Instances(), RequestTable()
    pd = PdRouter(make_pd_policy("adaptive"), known, estimates)
    kept: Any = SimpleNamespace(switch=Switch(), servers={})
    in_use = InUse(Settings(policy=policy), kept, 1)
    unused: Any = None
    dispatcher = Dispatcher(
        in_use.policy, in_use.router, pd, unused, unused, SchedulerMetrics(), estimates, 1, 1 << 20, lambda: False
    )
    now_s = time.time()
    for number in range(instances):
        info = InstanceInfo(instance_id=f"i{number}", model="m", max_concurrent_requests=CREDITS)
        beat = InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats())
        instance = known.heard(beat, time.monotonic())
        estimates.heard(beat)
        for _ in range(CREDITS):
            request = _request(len(table) + 1, now_s)
            table.add(request)
            request.status, request.instance = RequestStatus.RUNNING, instance.id
            request.dispatched_s = time.monotonic()
            instance.assign(request.id, request.sequence)
    for number in range(waiting):
        request = _request(len(table) + 1, now_s - 100 + number / 1000)
        table.add(request)
        dispatcher.enqueue(request)
    return Queries(unused, table, dispatcher, known, pd, estimates, in_use, kept, lambda: True, lambda: False)


def _request(sequence: int, arrival_s: float) -> TrackedRequest:
    return TrackedRequest(
        request=InferenceRequest(
            model="m",
            id=f"r{sequence}",
            prompt_token_ids=[1] * 10,
            user_id=f"u{sequence % 500}",
            ttft_slo_ms=None if sequence % 3 else 60_000.0,
        ),
        sequence=sequence,
        ack_subject="ack",
        reply_format="application/json",
        priority=sequence % 5,
        arrival_s=arrival_s,
    )


async def measure(ask: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds of CPU that `ask` takes, and the longest that another task waits meanwhile."""
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    began_s = time.thread_time()
    await ask()
    took_s = time.thread_time() - began_s
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return took_s, longest_s


async def main(arguments: argparse.Namespace) -> None:
    for policy in arguments.policies:
        asked = queries(policy, arguments.waiting, arguments.instances)
        last = f"r{arguments.waiting + arguments.instances * CREDITS}"
        questions: dict[str, Callable[[], Awaitable[object]]] = {
            "queue, first 100": lambda asked=asked: asked.queue(QueueQuery()),
            "queue of one user": lambda asked=asked: asked.queue(QueueQuery(user_id="u7")),
            "the request that came last": lambda asked=asked, last=last: asked.request(RequestQuery(id=last)),
            "requests of one user": lambda asked=asked: asked.requests(RequestsQuery(user_id="u7")),
        }
        for name, ask in questions.items():
            took_s, longest_s = await measure(ask)
            print(f"{policy:15} {name:27} {took_s * 1000:6.0f} ms, longest piece {longest_s * 1000:4.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--policies", nargs="+", default=["priority", "slo_aware", "fair", "adaptive"])
    asyncio.run(main(parser.parse_args()))
