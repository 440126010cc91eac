"""Pacing: a step takes as much of the prompts as lets it end before the next token is due, and no more."""

from math import inf

import pytest

from sagellm_engine.pacing import LEAST_CHUNK_TOKENS, Pacer

BASE_S, TOKEN_S, KV_S, PAIR_S = 0.005, 2e-5, 4e-8, 2e-9


def duration_s(tokens: int, kv_tokens: int, pairs: float) -> float:
    return BASE_S + tokens * TOKEN_S + kv_tokens * KV_S + pairs * PAIR_S


def pacer_that_knows() -> Pacer:
    """One that has seen steps of every kind."""
    pacer = Pacer()
    for number in range(400):
        decodes = number % 7 * 30
        room = pacer.room(8192, decodes, decodes * 1500, [])
        room.take(1 + number % 11 * 400, number % 5 * 8000)
        pacer.took(room, duration_s(room.tokens, room.kv_tokens, room.pairs))
    return pacer


@pytest.mark.parametrize("computed", [0, 5000, 40_000])
@pytest.mark.parametrize("slack_s", [0.03, 0.1])
def test_the_chunk_is_the_largest_whose_step_ends_in_time(slack_s: float, computed: int) -> None:
    room = pacer_that_knows().room(8192, 50, 60_000, [inf, slack_s])
    chunk = room.take(8192, computed)
    takes_s = duration_s(room.tokens, room.kv_tokens, room.pairs)
    assert 0.92 * slack_s < takes_s <= slack_s
    assert 16 < chunk < 8142
    assert room.full


def test_what_one_prompt_leaves_of_the_time_goes_to_the_next() -> None:
    pacer = pacer_that_knows()
    whole = pacer.room(8192, 10, 10_000, [0.1])
    shared = pacer.room(8192, 10, 10_000, [0.1])
    alone = whole.take(8192, 0)
    assert shared.take(1000, 0) == 1000
    rest = shared.take(8192, 0)
    assert shared.take(1, 0) == 0
    assert alone < 1000 + rest < alone * 1.1, "two prompts have fewer pairs than one"


def test_without_anything_due_the_budget_alone_limits_a_step() -> None:
    room = pacer_that_knows().room(8192, 192, 200_000, [])
    assert (room.take(5000, 0), room.take(5000, 0)) == (5000, 3000)
    assert room.full


def test_a_prompt_gets_on_however_short_the_time() -> None:
    room = pacer_that_knows().room(8192, 10, 10_000, [0.0057])
    assert [room.take(100, 0), room.take(100, 0)] == [LEAST_CHUNK_TOKENS, 0]


def test_a_token_that_is_late_whatever_is_done_holds_nothing_up() -> None:
    pacer = pacer_that_knows()
    with_lost = pacer.room(8192, 50, 60_000, [-0.2, 0.001, 0.1]).take(8192, 0)
    assert with_lost == pacer.room(8192, 50, 60_000, [0.1]).take(8192, 0)
    assert pacer.room(8192, 50, 60_000, [-0.2]).take(8142, 0) == 8142


def test_it_tells_how_large_its_latest_chunks_could_be() -> None:
    pacer = pacer_that_knows()
    for _ in range(100):
        room = pacer.room(8192, 50, 60_000, [0.1])
        room.take(1000, 0)
        pacer.took(room, room.predicted_s)
    assert pacer.chunk_tokens == pytest.approx(pacer.room(8192, 50, 60_000, [0.1]).take(8192, 0), rel=0.01)


def test_it_soon_knows_a_machine_that_is_a_hundred_times_slower_than_thought() -> None:
    pacer = Pacer()
    for prompt in (512, 512, 512, 512, 512, 300, 0):
        room = pacer.room(512, 1, 500, [])
        room.take(prompt, 0)
        pacer.took(room, 0.1 + room.tokens * 3e-3)
    room = pacer.room(512, 1, 500, [0.5])
    room.take(512, 0)
    assert 0.1 + room.tokens * 3e-3 < 0.7


def test_one_step_that_hung_does_not_make_it_timid() -> None:
    pacer = pacer_that_knows()
    before = pacer.room(8192, 50, 60_000, [0.1]).take(8192, 0)
    room = pacer.room(8192, 50, 60_000, [0.1])
    room.take(1000, 0)
    pacer.took(room, 20.0)
    for number in range(20):
        room = pacer.room(8192, 50, 60_000, [0.1])
        room.take(1000 + number * 50, 0)
        pacer.took(room, duration_s(room.tokens, room.kv_tokens, room.pairs))
    assert pacer.room(8192, 50, 60_000, [0.1]).take(8192, 0) > 0.9 * before


def test_an_engine_whose_first_steps_compile_is_known_as_it_is_afterwards() -> None:
    pacer = Pacer()
    for number in range(40):
        room = pacer.room(8192, 50, 60_000, [])
        room.take(500 + number * 50, 0)
        pacer.took(room, 30.0 if number < 2 else duration_s(room.tokens, room.kv_tokens, room.pairs))
    room = pacer.room(8192, 50, 60_000, [0.1])
    assert room.take(8192, 0) > 3000
    assert duration_s(room.tokens, room.kv_tokens, room.pairs) <= 0.1
