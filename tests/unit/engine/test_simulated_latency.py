"""The simulator against the engine: the same traffic, on a model whose steps take a set time."""

import asyncio
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from sagellm.cli.bench.calibrate.fit import fit
from sagellm.cli.bench.calibrate.here import EngineRig
from sagellm.cli.bench.calibrate.probes import measure, plan
from sagellm.cli.bench.calibrate.rig import Facts
from sagellm.simulator.cluster import ClusterPlan
from sagellm.simulator.cost import CostModel
from sagellm.simulator.scenario import Scenario
from sagellm.simulator.traces import TraceRequest
from sagellm_engine.async_engine import SageEngine
from sagellm_engine.contract import GenerateRequest, StepOutput
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.sampler import Sampled
from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams

BASE_S, TOKEN_S = 0.015, 0.0005
TOKEN = 65
SLOTS, BUDGET, BLOCK, BLOCKS, CONTEXT = 4, 64, 4, 160, 160
REQUESTS, PAUSE_S = 40, 0.08


def slow(engine: Engine) -> Engine:
    """`engine` with steps that compute nothing, and take a time for themselves and one for each token."""

    def run(plan: dict[Sequence, int]) -> dict[Sequence, list[Sampled]]:
        time.sleep(BASE_S + TOKEN_S * sum(plan.values()))
        done = [sequence for sequence, tokens in plan.items() if tokens == sequence.num_uncomputed]
        return {sequence: [Sampled(TOKEN)] for sequence in done}

    engine.runner.run = run  # type: ignore[method-assign, assignment]
    return engine


class Client:
    """Sends requests at their times, and measures what becomes of them."""

    def __init__(self) -> None:
        self.ttft_ms: dict[str, float] = {}
        self.latency_ms: dict[str, float] = {}
        self._sent_s: dict[str, float] = {}
        self._all = asyncio.Event()

    def emit(self, outputs: list[StepOutput]) -> None:
        for output in outputs:
            passed_ms = (time.perf_counter() - self._sent_s[output.id]) * 1000
            self.ttft_ms.setdefault(output.id, passed_ms)
            if output.finish_reason is not None:
                self.latency_ms[output.id] = passed_ms
        if len(self.latency_ms) == REQUESTS:
            self._all.set()

    async def send(self, engine: SageEngine, trace: list[TraceRequest], draw: random.Random) -> None:
        began_s = time.perf_counter()
        for number, request in enumerate(trace):
            await asyncio.sleep(max(0.0, began_s + request.arrival_s - time.perf_counter()))
            self._sent_s[str(number)] = time.perf_counter()
            prompt = [draw.randrange(256) for _ in range(request.input_tokens)]
            sampling = SamplingParams(max_tokens=request.output_tokens, temperature=0.0, ignore_eos=True)
            engine.generate(GenerateRequest(id=str(number), prompt_token_ids=prompt, sampling=sampling))
        await asyncio.wait_for(self._all.wait(), 120)


async def calibrated(engine_of: Callable[[], Engine]) -> CostModel:
    engine = SageEngine(EngineConfig(model="unused"), build=lambda _: engine_of())
    rig = EngineRig(engine)
    try:
        await engine.start(rig.emit)
        rig.facts = Facts(
            name="slow",
            model="tiny",
            engine="sagellm",
            vocab_size=256,
            max_model_len=CONTEXT,
            max_num_seqs=SLOTS,
            max_batched_tokens=BUDGET,
            kv_tokens=BLOCK * BLOCKS,
        )
        probes = plan(rig.facts, BUDGET, SLOTS)
        return fit(rig.facts, await measure(rig, probes, BUDGET, 1, 0, lambda _: None), BUDGET, 0.0, "test")
    finally:
        await engine.close()


async def test_simulated_latencies_are_those_of_the_engine(engine_of: Callable[..., Engine]) -> None:
    """At a load where most wait: without batching they would take several times as long, without a queue a part of
    that."""

    def build() -> Engine:
        return slow(
            engine_of(
                num_blocks=BLOCKS,
                block_size=BLOCK,
                max_model_len=CONTEXT,
                max_num_seqs=SLOTS,
                max_batched_tokens=BUDGET,
            )
        )

    cost = await calibrated(build)
    draw = random.Random(5)
    trace, arrival_s = [], 0.0
    for _ in range(REQUESTS):
        trace.append(
            TraceRequest(
                arrival_s=arrival_s, input_tokens=draw.randint(10, 100), output_tokens=draw.randint(4, 40)
            )
        )
        arrival_s += draw.expovariate(1 / PAUSE_S)
    engine, client = SageEngine(EngineConfig(model="unused"), build=lambda _: build()), Client()
    try:
        await engine.start(client.emit)
        await client.send(engine, trace, draw)
    finally:
        await engine.close()

    def simulated(**changes: Any) -> tuple[float, float]:
        cluster = ClusterPlan(cost=cost, block_size=BLOCK, **changes)
        result, _ = Scenario(requests=trace, plan=cluster).run(0, 1.0)
        return result.overall.ttft_ms.p50, result.overall.latency_ms.p50

    real_ms = median(client.ttft_ms.values()), median(client.latency_ms.values())
    print(f"TTFT and latency: simulated {simulated()}, measured {real_ms}")
    for found_ms, measured_ms in zip(simulated(), real_ms, strict=True):
        assert 0.7 < found_ms / measured_ms < 1.4
    for wrong in ({"max_num_seqs": 1}, {"instances": REQUESTS}):
        found_ms = simulated(**wrong)[1]
        assert not 0.7 < found_ms / real_ms[1] < 1.4, "the measurement cannot tell a wrong simulation"
