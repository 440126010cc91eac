"""Calibration: what is measured of answers as they come, and the cost model that follows."""

import pytest

from sagellm.cli.bench.calibrate.fit import compare, fit
from sagellm.cli.bench.calibrate.probes import STEPS, Measurement, Probe, common_step, measure, plan
from sagellm.cli.bench.calibrate.rig import Facts, Trail
from sagellm.simulator.cost import CostModel, StepClock
from sagellm_schemas import EngineError

BUDGET = 256
FACTS = Facts(
    name="w",
    model="m",
    engine="modelled",
    vocab_size=1000,
    max_model_len=4096,
    max_num_seqs=16,
    max_batched_tokens=BUDGET,
    kv_tokens=65_536,
)
TRUTH = CostModel(
    name="truth",
    dense_ms=[(1, 10.0), (16, 12.0), (256, 40.0)],
    kv_bytes_per_token=1000.0,
    kv_read_bytes_per_s=1e9,
    attention_flop_per_pair=1.0,
    attention_flop_per_s=2e7,
    kv_tokens=65_536,
    max_num_seqs=16,
    max_batched_tokens=BUDGET,
)


class ModelledRig:
    """An instance that takes exactly what a cost model says: prompts one after the other, then all decode."""

    facts = FACTS

    def __init__(self, cost: CostModel) -> None:
        self._clock = StepClock(cost, BUDGET)

    async def run(self, prompts: list[list[int]], output_tokens: int) -> list[Trail]:
        now_s, trails = 0.0, []
        for prompt in prompts:
            began_s, done = now_s, 0
            while done < len(prompt):
                chunk = min(BUDGET, len(prompt) - done)
                now_s += self._clock.step_s(chunk, 0, done, chunk * (done + (chunk + 1) / 2))
                done += chunk
            trails.append(Trail(first_token_ms=(now_s - began_s) * 1000, arrivals=[(now_s, 1)]))
        context = sum(len(prompt) + 1 for prompt in prompts)
        for token in range(2, output_tokens + 1):
            now_s += self._clock.step_s(len(prompts), 0, context, 0.0)
            context += len(prompts)
            for trail in trails:
                trail.arrivals.append((now_s, token))
        return trails


async def test_a_cost_model_is_found_again_from_its_own_timings() -> None:
    done: list[int] = []
    probes = plan(FACTS, BUDGET, 16)
    found = await measure(ModelledRig(TRUTH), probes, BUDGET, repeat=2, seed=0, say=done.append)
    fitted = fit(FACTS, found, BUDGET, 1000.0, "test")
    fitted.verify()
    assert done == list(range(1, len(probes) + 1))
    assert max(abs(one.error) for one in compare(fitted, found)) < 0.01
    truth, again = StepClock(TRUTH, BUDGET), StepClock(fitted, BUDGET)
    for step in ((1, 0, 500, 0.0), (16, 0, 20_000, 0.0), (256, 0, 0, 32_896.0), (256, 0, 512, 163_968.0)):
        assert again.step_s(*step) == pytest.approx(truth.step_s(*step), rel=0.02)


def test_every_step_size_is_measured_in_one_way_only() -> None:
    probes = plan(FACTS, BUDGET, 16)
    assert [p.tokens for p in probes if not p.batch] == [32, 64, 128, 256, 512, 1024]
    assert sorted({p.batch for p in probes if p.batch}) == [1, 2, 4, 8, 16]
    assert {p.batch for p in probes if p.batch and p.tokens > 100} == {1, 16}


def test_an_instance_with_little_room_gets_no_more_than_fits() -> None:
    small = Facts(**{name: getattr(FACTS, name) for name in FACTS.__struct_fields__} | {"max_model_len": 200})
    for probe in plan(small, BUDGET, 16):
        assert probe.tokens + STEPS < 200


def test_a_step_is_counted_only_while_all_decode() -> None:
    early = Trail(arrivals=[(0.0, 1), *((0.5 * i, i + 1) for i in range(1, 60))])
    late = Trail(arrivals=[(10.0, 1), *((10.0 + 0.5 * i, i + 1) for i in range(1, 60))])
    ms, kv_tokens = common_step([early, late], 100)
    assert ms == pytest.approx(500)
    assert kv_tokens == pytest.approx(200 + (22 + 60) / 2 + (2 + 40) / 2, abs=1)
    assert common_step([early, Trail(arrivals=[(40.0, 1), (41.0, 2), (42.0, 3)])], 100) is None


def test_an_instance_that_takes_no_time_cannot_be_fitted() -> None:
    nothing = [Measurement(probe=Probe(batch=1, tokens=1), ms=0.0, runs_ms=[0.0])]
    with pytest.raises(EngineError, match="no time at all"):
        fit(FACTS, nothing, BUDGET, 0.0, "")
