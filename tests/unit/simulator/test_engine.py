"""A simulated instance: exact times, and the same steps as the engine's own scheduler makes."""

import itertools
from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.simulator.cost import StepClock
from sagellm.simulator.job import Job
from sagellm.simulator.simulation import p99
from sagellm_engine.block_manager import BlockManager
from sagellm_engine.scheduler import Scheduler
from sagellm_engine.sequence import Sequence, Status
from sagellm_schemas import SamplingParams
from sagellm_schemas.prefix import block_hashes

from .making import BLOCK, attending_cost, engine_of, linear_cost, run_alone, steady_cost

Work = tuple[float, list[int], int, int, float | None]
"""Arrival, prompt, output tokens, priority, and what its steps are paced by, in seconds."""


def test_one_request_takes_a_prefill_step_and_a_step_for_each_further_token() -> None:
    engine, job = engine_of(linear_cost()), Job("a", 11, 3)
    assert run_alone(engine, [(1.0, job)]) == {"a": pytest.approx(1.040)}
    assert list(job.token_times_s) == pytest.approx([1.020, 1.030, 1.040])


def test_a_prompt_above_the_budget_takes_several_steps() -> None:
    job = Job("a", 150, 1)
    run_alone(engine_of(linear_cost()), [(0.0, job)])
    assert list(job.token_times_s) == pytest.approx([0.109 + 0.059])


def test_work_that_comes_during_a_step_joins_the_next_one() -> None:
    first, second = Job("a", 1, 4), Job("b", 20, 2)
    run_alone(engine_of(linear_cost()), [(0.0, first), (0.015, second)])
    # 0.010: a's first. 0.020: the step under way when b comes. Then a's third beside b's prompt: 9 + 21 ms.
    assert list(first.token_times_s) == pytest.approx([0.010, 0.020, 0.050, 0.061])
    assert list(second.token_times_s) == pytest.approx([0.050, 0.061])


def test_the_second_of_two_prompts_gets_what_the_first_leaves_of_the_budget() -> None:
    first, second = Job("a", 60, 2), Job("b", 60, 1)
    run_alone(engine_of(linear_cost()), [(0.0, first), (0.0, second)])
    # 60 + 40 tokens; then one decode and the 20 that are left.
    assert list(first.token_times_s) == pytest.approx([0.109, 0.139])
    assert list(second.token_times_s) == pytest.approx([0.139])


def test_a_paced_decode_has_its_next_token_in_time_while_a_long_prompt_is_computed_beside_it() -> None:
    engine = engine_of(linear_cost(), 2000)
    first = Job("a", 60, 300, tbt_slo_s=0.045)
    run_alone(engine, [(0.0, first), (0.2, Job("b", 6000, 1))])
    gaps_s = [b - a for a, b in itertools.pairwise(first.token_times_s)]
    assert gaps_s[0] == pytest.approx(0.010), "nothing else to compute"
    # 99 of a hundred, as TBT is measured: what steps take has to be learned first.
    assert 0.040 < p99(np.array(gaps_s)) <= 0.045
    assert engine.stats().chunk_tokens > 20


def test_without_a_pace_a_long_prompt_takes_the_whole_budget() -> None:
    first = Job("a", 60, 30)
    run_alone(engine_of(linear_cost(), 200), [(0.0, first), (0.2, Job("b", 400, 1))])
    assert max(b - a for a, b in itertools.pairwise(first.token_times_s)) == pytest.approx(0.109)


def test_a_prefix_that_is_known_is_not_computed_again() -> None:
    prompt = list(range(21))
    hashes = list(block_hashes(prompt, BLOCK))
    first, second = Job("a", 21, 1, hashes=hashes), Job("b", 21, 1, hashes=hashes)
    run_alone(engine_of(linear_cost()), [(0.0, first), (1.0, second)])
    assert (first.cached_tokens, second.cached_tokens) == (0, 20)
    assert list(second.token_times_s) == pytest.approx([1.010])


def test_a_job_that_was_preempted_computes_everything_again() -> None:
    engine = engine_of(steady_cost(), num_blocks=4)
    first, second = Job("a", 8, 8), Job("b", 4, 4)
    run_alone(engine, [(0.0, first), (0.0, second)])
    # Both need a second and third block after step 1; there is one, and b is last in order.
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert list(first.token_times_s) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert second.token_times_s[0] == 1
    assert second.token_times_s[1] >= 8


def test_a_job_taken_out_leaves_its_tokens_and_no_blocks() -> None:
    engine = engine_of(linear_cost())
    job = Job("a", 11, 50)
    engine.add(job, 0.0)
    engine.begin(0.0)
    engine.complete()
    assert engine.remove(job)
    assert not engine.remove(job)
    assert (job.generated, len(job.token_times_s), engine.kv.num_free) == (1, 1, 64)


prompts = st.one_of(
    st.integers(1, 40).map(lambda n: list(range(n))),  # they share their beginnings
    st.tuples(st.integers(1, 9), st.integers(1, 40)).map(lambda p: [p[0] * 1000 + i for i in range(p[1])]),
)
works = st.lists(
    st.tuples(
        st.floats(0, 0.4),
        prompts,
        st.integers(1, 20),
        st.sampled_from([0, 2, 2]),
        st.sampled_from([None, 0.012, 0.02, 0.1]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(works, st.integers(15, 40), st.integers(8, 48), st.booleans())
def test_it_makes_the_very_steps_of_the_engines_scheduler(
    works: list[Work], num_blocks: int, budget: int, sharing: bool
) -> None:
    works.sort(key=lambda work: work[0])
    if sharing:  # which block is overwritten first is modelled in broad terms only
        num_blocks = 400
    assert simulated(works, num_blocks, budget, sharing) == real(works, num_blocks, budget, sharing)


def simulated(works: Iterable[Work], num_blocks: int, budget: int, sharing: bool) -> list[list[float]]:
    """When each job had its tokens."""
    cost = msgspec.structs.replace(attending_cost(), max_batched_tokens=budget)
    engine = engine_of(cost, num_blocks, sharing=sharing)
    jobs = [
        Job(str(i), len(prompt), output, priority, list(block_hashes(prompt, BLOCK)), tbt_slo_s)
        for i, (_, prompt, output, priority, tbt_slo_s) in enumerate(works)
    ]
    run_alone(engine, [(work[0], job) for work, job in zip(works, jobs, strict=True)])
    return [list(job.token_times_s) for job in jobs]


def real(works: Iterable[Work], num_blocks: int, budget: int, sharing: bool) -> list[list[float]]:
    """The same of the engine's scheduler, with a model that answers tokens nobody asks for again."""
    clock = StepClock(attending_cost(), budget)
    blocks = BlockManager(num_blocks, BLOCK, enable_prefix_caching=sharing)
    scheduler = Scheduler(blocks, max_num_seqs=8, max_batched_tokens=budget)
    waiting = [
        (
            arrival_s,
            output,
            Sequence(
                str(i),
                prompt,
                SamplingParams(),
                max_tokens=99,
                priority=priority,
                arrival=i,
                tbt_slo_s=tbt_slo_s,
            ),
        )
        for i, (arrival_s, prompt, output, priority, tbt_slo_s) in enumerate(works)
    ]
    wanted = {sequence: output for _, output, sequence in waiting}
    tokens: dict[str, list[float]] = {sequence.id: [] for sequence in wanted}
    now_s = 0.0
    while waiting or scheduler.sequences:
        if not scheduler.sequences:
            now_s = max(now_s, waiting[0][0])
        while waiting and waiting[0][0] <= now_s:
            scheduler.add(waiting.pop(0)[2])
        decoding = {s for s in scheduler.sequences if s.status is Status.RUNNING and s.num_uncomputed == 1}
        plan = scheduler.schedule(now_s)
        pairs = sum(n * (s.num_computed + (n + 1) / 2) for s, n in plan.items() if s not in decoding)
        began_s, now_s = now_s, now_s + clock.step_s(sum(plan.values()), 0, 0, pairs)
        moved = [s for s, num_tokens in plan.items() if num_tokens == s.num_uncomputed]
        for sequence in moved:
            tokens[sequence.id].append(now_s)
            sequence.token_s = now_s
            sequence.token_ids.append(-1 - int(sequence.id))
        scheduler.complete(plan)
        scheduler.took(now_s - began_s)
        for sequence in moved:
            if sequence.num_output == wanted[sequence]:
                scheduler.remove(sequence)
    return list(tokens.values())
