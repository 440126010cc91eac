"""The scheduler alone: decisions per second of every policy and routing strategy, long queue, many instances.

    python ops/bench/scheduler_alone.py --json docs/benchmarks/scheduler-alone.json

The dispatcher is the one that serves; only what it sends goes nowhere. A decision is everything between two work
items: the policy's choice of the request, the router's of the instance, the encoded item, the books. There are two
situations:

- fill: instances are idle, and one pass hands out work until all are full;
- full: all are busy; a few requests end, as many arrive, and a pass places what fits.

The queue is never shorter than it says. Prompts have 1,024 token ids; a third of them are turns of conversations
that some instances hold in their prefix caches. Then the sizes are varied, for a few combinations.

With `--clock cpu` only the time counts in which this thread ran: for a machine that has other things to do.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sagellm.broker import Sender
from sagellm.garbage import rare_garbage_collection
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.pd import PdRouter, make_pd_policy
from sagellm.scheduler.policies import NAMES as POLICIES
from sagellm.scheduler.policies import make_policy
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import BUILT_IN, make_router
from sagellm_schemas import (
    EngineState,
    EngineStats,
    InferenceRequest,
    InstanceInfo,
    InstanceStats,
    PackedTokens,
    SamplingParams,
)
from sagellm_schemas.prefix import short_hashes

ROUTINGS = tuple(router.name for router in BUILT_IN)
MODEL = "m"
PROMPT_TOKENS = 1024
CONVERSATIONS = 300
USERS = 2000
CREDITS = 8
ENDINGS_PER_PASS = 4
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
SCALED = (("adaptive", "prefix_aware"), ("fair", "load_balanced"), ("slo_aware", "affinity"))
SIZES = ((1000, 10), (10_000, 10), (100_000, 10), (100_000, 100), (100_000, 3000))


class Sink:
    """Takes the place of the sender: notes when each item comes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.times_s: list[float] = []

    def send(self, subject: str, payload: bytes = b"") -> None:
        """One work item."""
        self.times_s.append(self.clock())


class Load:
    """Requests as they come: users, priorities, deadlines and prompts, the same in every run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        shared = [self._tokens(768) for _ in range(CONVERSATIONS)]
        self.conversations = [beginning + self._tokens(PROMPT_TOKENS - 768) for beginning in shared]
        self._others = [self._tokens(PROMPT_TOKENS) for _ in range(2 * CONVERSATIONS)]
        self._sequence = 0

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(32_000) for _ in range(count)]

    def next(self) -> TrackedRequest:
        """One request."""
        self._sequence += 1
        draw = self._random
        prompts = self.conversations if draw.random() < 1 / 3 else self._others
        priority = draw.randrange(5)
        now_s = time.time()
        request = InferenceRequest(
            model=MODEL,
            id=f"r{self._sequence}",
            prompt_token_ids=PackedTokens(draw.choice(prompts)),
            sampling=SamplingParams(max_tokens=draw.randrange(1, 1024)),
            priority=priority,
            user_id=f"user-{draw.randrange(USERS)}",
            ttft_slo_ms=draw.choice((None, 1000.0, 60_000.0)),
            arrival_time=now_s,
        )
        return TrackedRequest(request, self._sequence, "ack", "application/msgpack", priority, now_s)


def fleet(count: int, load: Load) -> Instances:
    """Ready instances 4 to a machine and 16 to a rack, each with a few conversations in its cache."""
    instances = Instances()
    for number in range(count):
        info = InstanceInfo(
            instance_id=f"worker-{number}",
            model=MODEL,
            max_concurrent_requests=CREDITS,
            machine_id=f"machine-{number // 4}",
            rack_id=f"rack-{number // 16}",
            price_per_hour=1.0 + number % 3,
        )
        beat = InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats())
        instances.heard(beat, 0.0)
        index = instances.prefixes(MODEL)
        for offset in range(3):
            prompt = load.conversations[(number + offset * 97) % CONVERSATIONS]
            index.add(info.instance_id, short_hashes(prompt, index.block_size, 64))
    return instances


def measure(
    policy: str, routing: str, queued: int, count: int, passes: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """One combination at one size."""
    load, sink = Load(), Sink(clock)
    instances = fleet(count, load)
    estimates = Estimates()
    dispatcher = Dispatcher(
        make_policy(policy),
        make_router(routing),
        PdRouter(make_pd_policy("adaptive"), instances, estimates),
        cast(Endings, None),
        cast(Sender, sink),
        SchedulerMetrics(),
        estimates,
        1,
        1 << 20,
        lambda: True,
    )
    for _ in range(queued + count * CREDITS):
        dispatcher.enqueue(load.next())
    with rare_garbage_collection():
        fill = _pass(dispatcher, sink)
        full = _busy(dispatcher, sink, instances, load, passes)
    return {
        "policy": policy,
        "routing": routing,
        "queued": queued,
        "instances": count,
        "fill": _summary(fill),
        "full": _summary(full),
    }


def _pass(dispatcher: Dispatcher, sink: Sink) -> list[float]:
    """One pass; returns the microseconds of each decision."""
    sink.times_s = [sink.clock()]
    dispatcher._pass()
    return [(after - before) * 1e6 for before, after in pairwise(sink.times_s)]


def _busy(dispatcher: Dispatcher, sink: Sink, instances: Instances, load: Load, passes: int) -> list[float]:
    draw, everyone = random.Random(1), instances.all()
    found: list[float] = []
    for _ in range(passes):
        for _ in range(ENDINGS_PER_PASS):
            instance = draw.choice(everyone)
            if instance.assigned:
                instance.release(next(iter(instance.assigned)))
            dispatcher.enqueue(load.next())
        found += _pass(dispatcher, sink)
    return found


def _summary(times_us: list[float]) -> dict[str, float]:
    ordered = sorted(times_us)
    return {
        "decisions": len(ordered),
        "decisions_per_s": round(1e6 * len(ordered) / sum(ordered)),
        "p50_us": round(ordered[len(ordered) // 2], 1),
        "p99_us": round(ordered[len(ordered) * 99 // 100], 1),
        "max_us": round(ordered[-1], 1),
    }


def main() -> None:
    """Measure, print, save."""
    arguments = _arguments()
    combinations = [
        (p, r, arguments.queued, arguments.instances) for p in arguments.policies for r in arguments.routings
    ]
    if not arguments.no_sizes:
        combinations += [
            (policy, routing, queued, count)
            for policy, routing in SCALED
            for queued, count in SIZES
            if policy in arguments.policies and routing in arguments.routings
        ]
    results = []
    for combination in track(combinations, description="scheduler", transient=True):
        results.append(measure(*combination, arguments.passes, CLOCKS[arguments.clock]))  # noqa: PERF401
    if arguments.json:
        report = {"machine": _machine(), "prompt_tokens": PROMPT_TOKENS, "clock": arguments.clock}
        report["runs"] = results
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    _show(results)


def _show(results: list[dict[str, Any]]) -> None:
    table = Table("policy", "routing", "queued", "instances")
    for situation in ("fill", "full"):
        for column in ("decisions/s", "p50 µs", "p99 µs"):
            table.add_column(f"{situation}: {column}", justify="right")
    for run in results:
        cells = [run["policy"], run["routing"], f"{run['queued']:,}", f"{run['instances']:,}"]
        for situation in ("fill", "full"):
            found = run[situation]
            cells += [f"{found['decisions_per_s']:,}", f"{found['p50_us']:.0f}", f"{found['p99_us']:.0f}"]
        table.add_row(*cells)
    Console(width=150).print(table)


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--routings", nargs="+", default=list(ROUTINGS), choices=ROUTINGS)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--passes", type=int, default=1000, help="passes of the full fleet")
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--no-sizes", action="store_true", help="measure at one size only")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
