"""The scheduler keeps its budget, its order, and every sequence it was given."""

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_engine.block_manager import BlockManager
from sagellm_engine.scheduler import Plan, Scheduler
from sagellm_engine.sequence import Sequence, Status
from sagellm_engine.speculation import Drafter
from sagellm_schemas import SamplingParams

from .guessing import Guesses

BLOCK = 4


def scheduler_of(num_blocks: int = 64, drafter: Drafter | None = None, **options: int) -> Scheduler:
    limits = {"max_num_seqs": 8, "max_batched_tokens": 16} | options
    return Scheduler(BlockManager(num_blocks, BLOCK), drafter=drafter, **limits)


def sequence_of(arrival: int, num_tokens: int, priority: int = 2) -> Sequence:
    """A prompt that shares no prefix with another one's."""
    prompt = [arrival * 1000 + i for i in range(num_tokens)]
    return Sequence(str(arrival), prompt, SamplingParams(), max_tokens=100, priority=priority, arrival=arrival)


def step(scheduler: Scheduler) -> Plan:
    """One engine step with a model that always answers 7."""
    plan = scheduler.schedule()
    for sequence, num_tokens in plan.items():
        if num_tokens == sequence.num_uncomputed + len(sequence.drafts):
            sequence.token_ids.append(7)
    scheduler.complete(plan)
    scheduler.blocks.check_integrity(scheduler.sequences)
    return plan


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = scheduler_of()
    sequence = sequence_of(0, 40)
    scheduler.add(sequence)
    assert [step(scheduler)[sequence] for _ in range(5)] == [16, 16, 8, 1, 1]


def test_decoding_goes_on_while_a_long_prompt_is_computed() -> None:
    scheduler = scheduler_of()
    short, long = sequence_of(0, 3), sequence_of(1, 40)
    scheduler.add(short)
    step(scheduler)
    scheduler.add(long)
    plans = [step(scheduler) for _ in range(4)]
    assert [plan[short] for plan in plans] == [1, 1, 1, 1]
    assert [plan[long] for plan in plans] == [15, 15, 10, 1]


def test_the_chunk_limit_leaves_room_for_other_prompts() -> None:
    scheduler = scheduler_of(max_chunk_tokens=6)
    sequences = [sequence_of(i, 20) for i in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    assert list(step(scheduler).values()) == [6, 6, 4]


def test_beside_a_paced_decode_a_prompts_chunks_are_as_large_as_their_time_allows() -> None:
    scheduler = scheduler_of(400, max_batched_tokens=500)
    paced, long = sequence_of(0, 40), sequence_of(1, 1000)
    paced.tbt_slo_s = 0.1
    scheduler.add(paced)
    now_s, chunks = 0.0, []
    for number in range(40):
        if number == 3:
            scheduler.add(long)
        plan = scheduler.schedule(now_s)
        lasts_s = 0.01 + 0.001 * sum(plan.values())
        now_s += lasts_s
        paced.token_s = now_s
        paced.token_ids.append(7)
        scheduler.complete(plan)
        scheduler.took(lasts_s)
        if number > 3:
            assert lasts_s <= 0.1
            chunks.append(plan.get(long, 0))
    assert max(chunks) > 50
    assert max(chunks) / 2 < scheduler.chunk_tokens <= 500


def test_once_a_paced_decode_is_late_it_holds_nothing_up() -> None:
    scheduler = scheduler_of(400, max_batched_tokens=500)
    paced, long = sequence_of(0, 40), sequence_of(1, 1000)
    paced.tbt_slo_s, paced.token_s = 0.1, 0.0
    scheduler.add(paced)
    step(scheduler)
    scheduler.add(long)
    assert scheduler.schedule(now_s=60.0)[long] == 499


def test_no_more_than_max_num_seqs_run() -> None:
    scheduler = scheduler_of(max_num_seqs=2)
    for i in range(5):
        scheduler.add(sequence_of(i, 2))
    assert len(step(scheduler)) == 2
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 3)


def test_equal_priorities_are_served_in_order_of_arrival() -> None:
    scheduler = scheduler_of(num_blocks=8)
    big, small = sequence_of(1, 24), sequence_of(2, 1)
    running = sequence_of(0, 12)
    scheduler.add(running)
    step(scheduler)
    scheduler.add(big)
    scheduler.add(small)
    assert list(step(scheduler)) == [running], "a small request must not pass a big one for ever"
    scheduler.remove(running)
    assert list(step(scheduler)) == [big]


def test_a_more_urgent_request_is_admitted_first() -> None:
    scheduler = scheduler_of(max_num_seqs=1)
    for i, priority in enumerate([3, 2, 0]):
        scheduler.add(sequence_of(i, 2, priority))
    [first] = step(scheduler)
    assert first.priority == 0


def test_when_blocks_run_out_the_last_in_order_is_put_off_and_comes_back() -> None:
    scheduler = scheduler_of(num_blocks=4)
    first, second = sequence_of(0, 8), sequence_of(1, 8)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler)
    plan = step(scheduler)
    assert plan == {first: 1}
    assert scheduler.preemptions_total == 1
    assert second.status is Status.WAITING
    assert second.blocks == []
    scheduler.remove(first)
    [(back, count)] = step(scheduler).items()
    assert back is second
    assert count >= 1
    assert second.num_computed == 9


def test_the_less_urgent_is_preempted_even_if_it_came_first() -> None:
    scheduler = scheduler_of(num_blocks=4)
    low, high = sequence_of(0, 6, priority=4), sequence_of(1, 8, priority=0)
    scheduler.add(low)
    step(scheduler)
    scheduler.add(high)
    step(scheduler)
    assert step(scheduler) == {high: 1}
    assert low.status is Status.WAITING
    assert high.status is Status.RUNNING


def test_a_prefix_that_is_cached_is_not_computed_again() -> None:
    scheduler = scheduler_of()
    first = sequence_of(0, 10)
    scheduler.add(first)
    step(scheduler)
    second = Sequence("1", [*first.token_ids[:10], 5, 6], SamplingParams(), max_tokens=9, arrival=1)
    scheduler.add(second)
    assert step(scheduler)[second] == 4
    assert second.num_cached == 8


def test_removing_frees_everything_wherever_the_sequence_is() -> None:
    scheduler = scheduler_of(max_num_seqs=1)
    running, waiting = sequence_of(0, 5), sequence_of(1, 5)
    scheduler.add(running)
    scheduler.add(waiting)
    step(scheduler)
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert scheduler.sequences == []
    assert scheduler.blocks.num_free == 64
    assert scheduler.schedule() == {}


class Eager(Guesses):
    """Asks for nine drafts of everyone in every step."""

    def wanted(self, decodes: Collection[Sequence]) -> dict[Sequence, int]:
        return dict.fromkeys(decodes, 9)

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        return {sequence: [8] * count for sequence, count in room.items()}


def test_drafts_leave_half_of_the_budget_to_prompts() -> None:
    scheduler = scheduler_of(drafter=Eager())
    first, second, prompt = sequence_of(0, 3), sequence_of(1, 3), sequence_of(2, 40)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler)
    scheduler.add(prompt)
    assert step(scheduler) == {first: 8, second: 1, prompt: 7}
    assert first.num_output == 2
    assert len(first.blocks) == 2, "blocks of drafts that were wrong are given back"


def test_nobody_is_put_off_for_drafts() -> None:
    scheduler = scheduler_of(num_blocks=5, drafter=Eager())
    first, second = sequence_of(0, 7), sequence_of(1, 7)
    scheduler.add(first)
    scheduler.add(second)
    step(scheduler)
    assert step(scheduler) == {first: 1 + 4, second: 1}
    assert scheduler.preemptions_total == 0


def test_while_a_request_waits_for_blocks_none_go_to_drafts() -> None:
    scheduler = scheduler_of(num_blocks=6, drafter=Eager())
    running, waiting = sequence_of(0, 6), sequence_of(1, 18)
    scheduler.add(running)
    step(scheduler)
    assert step(scheduler)[running] > 1
    scheduler.add(waiting)
    step(scheduler)
    assert step(scheduler) == {running: 1}
    scheduler.remove(waiting)
    assert step(scheduler)[running] > 1


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=12
    ),
    num_blocks=st.integers(11, 40),
    budget=st.integers(6, 40),
    seats=st.integers(1, 6),
)
def test_every_request_ends_whatever_the_load(
    prompts: list[tuple[int, int, int]], num_blocks: int, budget: int, seats: int
) -> None:
    scheduler = scheduler_of(num_blocks, max_batched_tokens=budget, max_num_seqs=seats)
    wanted: dict[Sequence, int] = {}
    for i, (length, output, priority) in enumerate(prompts):
        sequence = sequence_of(i, length, priority)
        wanted[sequence] = output
        scheduler.add(sequence)
    steps = 0
    while scheduler.sequences:
        plan = step(scheduler)
        assert plan, "a step with work must do some"
        assert sum(plan.values()) <= budget
        assert len(plan) <= scheduler.num_running <= seats
        for sequence in plan:
            if sequence.num_output >= wanted[sequence]:
                assert sequence.num_output == wanted[sequence]
                scheduler.remove(sequence)
        steps += 1
        assert steps < 5000
    assert scheduler.blocks.num_free == num_blocks
