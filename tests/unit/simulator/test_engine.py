"""A simulated instance: exact times, and the same steps as the engine's own scheduler makes."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.simulator.job import Job
from sagellm_engine.block_manager import BlockManager
from sagellm_engine.scheduler import Scheduler
from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams
from sagellm_schemas.prefix import block_hashes

from .making import BLOCK, engine_of, linear_cost, run_alone, steady_cost

Work = tuple[int, list[int], int, int]
"""Arrival step, prompt, output tokens, priority."""


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
    st.tuples(st.integers(0, 30), prompts, st.integers(1, 20), st.sampled_from([0, 2, 2])), max_size=12
)


@settings(deadline=None)
@given(works, st.integers(15, 40), st.integers(8, 24), st.booleans())
def test_it_makes_the_very_steps_of_the_engines_scheduler(
    works: list[Work], num_blocks: int, budget: int, sharing: bool
) -> None:
    works.sort(key=lambda work: work[0])
    assert simulated(works, num_blocks, budget, sharing) == real(works, num_blocks, budget, sharing)


def simulated(works: Iterable[Work], num_blocks: int, budget: int, sharing: bool) -> list[list[int]]:
    """The steps after which each job had a token, where every step takes one second."""
    cost = steady_cost()
    cost = type(cost)(**{f: getattr(cost, f) for f in cost.__struct_fields__} | {"max_batched_tokens": budget})
    engine = engine_of(cost, num_blocks, sharing=sharing)
    jobs = [
        Job(str(i), len(prompt), output, priority, list(block_hashes(prompt, BLOCK)))
        for i, (_, prompt, output, priority) in enumerate(works)
    ]
    run_alone(engine, [(float(work[0]), job) for work, job in zip(works, jobs, strict=True)])
    return [[round(time_s) for time_s in job.token_times_s] for job in jobs]


def real(works: Iterable[Work], num_blocks: int, budget: int, sharing: bool) -> list[list[int]]:
    """The same of the engine's scheduler, with a model that answers tokens nobody asks for again."""
    blocks = BlockManager(num_blocks, BLOCK, enable_prefix_caching=sharing)
    scheduler = Scheduler(blocks, max_num_seqs=8, max_batched_tokens=budget)
    waiting = [
        (arrival, output, Sequence(str(i), prompt, SamplingParams(), max_tokens=99, priority=priority, arrival=i))
        for i, (arrival, prompt, output, priority) in enumerate(works)
    ]
    wanted = {sequence: output for _, output, sequence in waiting}
    tokens: dict[str, list[int]] = {sequence.id: [] for sequence in wanted}
    now = 0
    while waiting or scheduler.sequences:
        while waiting and waiting[0][0] <= now:
            scheduler.add(waiting.pop(0)[2])
        plan = scheduler.schedule()
        scheduler.complete(plan)
        now += 1
        for sequence in plan:
            if sequence.num_uncomputed:
                continue
            tokens[sequence.id].append(now)
            sequence.token_ids.append(-1 - int(sequence.id))
            if sequence.num_output == wanted[sequence]:
                scheduler.remove(sequence)
    return list(tokens.values())
