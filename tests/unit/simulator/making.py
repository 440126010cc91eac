"""Small cost models and engines for tests."""

import msgspec

from sagellm.simulator.cost import CostModel, StepClock
from sagellm.simulator.engine import SimulatedEngine
from sagellm.simulator.job import Job
from sagellm.simulator.kv import KvCache

BLOCK = 4


def steady_cost(step_ms: float = 1000.0, kv_tokens: int = 4096) -> CostModel:
    """Every step takes the same time."""
    return CostModel(
        name="steady", dense_ms=[(1, step_ms)], kv_tokens=kv_tokens, max_num_seqs=8, max_batched_tokens=16
    )


def linear_cost() -> CostModel:
    """A step takes 9 ms and 1 ms per token; reading KV and attending cost nothing."""
    return CostModel(
        name="linear", dense_ms=[(1, 10.0), (1001, 1010.0)], kv_tokens=4096, max_num_seqs=8, max_batched_tokens=100
    )


def attending_cost() -> CostModel:
    """A step takes 9 ms, 1 ms per token, and about 0.1 ms for ten tokens that attend to one another."""
    return msgspec.structs.replace(linear_cost(), attention_flop_per_pair=1.0, attention_flop_per_s=2.0**20)


def engine_of(cost: CostModel, num_blocks: int = 64, *, sharing: bool = True) -> SimulatedEngine:
    return SimulatedEngine(
        StepClock(cost, cost.max_batched_tokens),
        KvCache(num_blocks, BLOCK, sharing=sharing),
        max_num_seqs=cost.max_num_seqs,
        max_batched_tokens=cost.max_batched_tokens,
    )


def run_alone(engine: SimulatedEngine, jobs: list[tuple[float, Job]]) -> dict[str, float]:
    """Give the engine jobs at their times; when each one ended. `jobs` are in order of time."""
    ended: dict[str, float] = {}
    waiting = list(jobs)
    while waiting or engine.jobs:
        now_s = min(engine.boundary_s, waiting[0][0] if waiting else engine.boundary_s)
        if engine.boundary_s == now_s:
            ended |= {job.id: now_s for job, end in engine.complete() if end == "finished"}
            engine.check_integrity()
        while waiting and waiting[0][0] <= now_s:
            engine.add(waiting.pop(0)[1], now_s)
        engine.begin(now_s)
    return ended
