"""What is predicted: step times, lengths of answers, and from both when requests start and end."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.scheduler.costs import tariff_of, within_budget
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.forecast import forecast
from sagellm.scheduler.output_lengths import UNKNOWN_TOKENS, OutputLengths
from sagellm.scheduler.prediction_errors import PredictionError
from sagellm.scheduler.step_times import StepTimes
from sagellm_schemas import (
    BudgetExceeded,
    EngineState,
    EngineStats,
    InstanceInfo,
    InstanceStats,
    SamplingParams,
    Tariff,
)

from .making import make_instance, make_request


def samples(seed: int, count: int) -> list[tuple[float, float, float]]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        running = draw.randrange(1, 60)
        tokens = running + draw.choice((0, 0, 256, 2000))
        found.append((tokens, running, (0.006 + 0.00003 * tokens + 0.0001 * running) * draw.uniform(0.95, 1.05)))
    return found


def test_step_times_are_learned_within_a_tenth() -> None:
    steps = StepTimes()
    for tokens, running, step_s in samples(1, 200):
        steps.observe(tokens, running, step_s)
    for tokens, running in ((1, 1), (40, 40), (2048, 20)):
        truth_s = 0.006 + 0.00003 * tokens + 0.0001 * running
        assert steps.pace.step_s(tokens, running) == pytest.approx(truth_s, rel=0.1)


def test_a_hiccup_does_not_spoil_them() -> None:
    steps = StepTimes()
    for place, (tokens, running, step_s) in enumerate(samples(2, 200)):
        steps.observe(tokens, running, 5.0 if place % 40 == 39 else step_s)
    assert steps.pace.step_s(40, 40) == pytest.approx(0.0112, rel=0.2)


def test_slow_first_steps_are_soon_forgotten() -> None:
    steps = StepTimes()
    for place, (tokens, running, step_s) in enumerate(samples(3, 60)):
        steps.observe(tokens, running, 10.0 if place < 2 else step_s)
    assert steps.pace.step_s(40, 40) == pytest.approx(0.0112, rel=0.3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 4096), st.floats(0, 512), st.floats(1e-5, 10)), max_size=40))
def test_no_load_makes_them_negative(rows: list[tuple[float, float, float]]) -> None:
    steps = StepTimes()
    for row in rows:
        steps.observe(*row)
    pace = steps.pace
    assert min(pace.base_s, pace.per_token_s, pace.per_running_s) >= 0


def heartbeat(name: str = "i", price: float = 0.0, **stats: float) -> InstanceStats:
    info = InstanceInfo(instance_id=name, model="m", max_batched_tokens=1000, price_per_hour=price)
    return InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats(**stats))  # type: ignore[arg-type]


def test_a_prompt_computed_over_several_heartbeats_does_not_blur_what_its_tokens_take() -> None:
    draw = random.Random(5)
    steps = StepTimes()
    computed = prompts = spent_ms = 0.0
    for number in range(400):
        tokens = draw.choice((200, 1000, 3000))
        computed += tokens
        prompts += 12_000 if number % 8 == 0 else 0  # counted as a whole when it begins
        spent_ms += 6 + 0.03 * tokens
        stats = {"steps_total": number + 1, "step_ms_total": spent_ms, "prompt_tokens_total": int(prompts)}
        steps.heard(EngineStats(**stats, computed_tokens_total=int(computed)))
    assert steps.pace.per_token_s == pytest.approx(30e-6, rel=0.02)
    assert steps.pace.base_s == pytest.approx(0.006, rel=0.05)


def test_heartbeats_teach_what_prompts_and_answers_take() -> None:
    estimates = Estimates()
    steps = prompts = outputs = 0
    spent_ms = 0.0
    draw = random.Random(3)
    for _ in range(200):
        tokens = draw.choice((0, 300, 900))
        steps, prompts, outputs = steps + 10, prompts + 10 * tokens, outputs + 10 * 20
        spent_ms += 10 * (10 + 0.02 * (tokens + 20))
        estimates.heard(
            heartbeat(
                running=20,
                steps_total=steps,
                prompt_tokens_total=prompts,
                output_tokens_total=outputs,
                step_ms_total=spent_ms,
            )
        )
    pace = estimates.pace("m")
    assert pace.prompt_token_s == pytest.approx(20e-6, rel=0.1)
    long, short = make_request(1, prompt_tokens=4000), make_request(2, prompt_tokens=100)
    assert estimates.prefill_s(long) - estimates.prefill_s(short) == pytest.approx(
        3 * 0.0104 + 3900 * 20e-6, rel=0.1
    )
    assert estimates.work_s(short) < estimates.service_s(short)


def test_an_answers_length_is_a_quantile_of_what_user_and_size_had() -> None:
    lengths = OutputLengths(share=0.8)
    assert lengths.predict("u", "m", 100) == UNKNOWN_TOKENS
    for tokens in range(100):
        lengths.add("talker", "m", 100, 1000 + tokens)
        lengths.add("brief", "m", 100, 10)
    assert 1000 <= lengths.predict("talker", "m", 100) <= 1400
    assert lengths.predict("brief", "m", 100) <= 13
    assert lengths.predict("stranger", "m", 100) >= 1000
    assert lengths.predict("talker", "m", 9000) == lengths.predict("stranger", "m", 9000)
    assert lengths.predict("talker", "other", 100) == UNKNOWN_TOKENS


def test_habits_may_change_and_memory_is_bounded() -> None:
    lengths = OutputLengths(max_histories=50)
    for tokens, count in ((1000, 500), (10, 1000)):
        for _ in range(count):
            lengths.add("u", "m", 100, tokens)
    assert lengths.predict("u", "m", 100) <= 13
    for i in range(1000):
        lengths.add(f"u{i}", "m", 100, 5)
    assert len(lengths) <= 50


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    estimates = Estimates()
    request = make_request(1, sampling=SamplingParams(max_tokens=7))
    assert estimates.output_tokens(request) == 7


def test_prediction_errors_are_known() -> None:
    error = PredictionError()
    for actual in (8.0, 12.0):
        error.add(9.0, actual)
    assert (error.count, error.mean_absolute, error.mean_signed, error.relative) == (2, 2.0, 1.0, 0.2)
    estimates = Estimates()
    request = make_request(1)
    estimates.dispatched(request, 100.0)
    estimates.ended(request, 103.0, 50, first_token_s=1.0)
    assert estimates.output_error.count == estimates.finish_error.count == estimates.first_token_error.count == 1


def test_a_forecast_gives_each_credit_to_the_next_in_order() -> None:
    estimates = Estimates()
    instance = make_instance("a", capacity=2)
    running = make_request(0, prompt_tokens=100)
    running.instance = "a"
    waiting = [make_request(i, prompt_tokens=100) for i in range(1, 5)]
    found = list(forecast(waiting, [(running, 0.5)], [instance], estimates, 1000.0))
    assert [estimate.position for estimate in found] == [1, 2, 3, 4]
    starts = [estimate.start_s or 0.0 for estimate in found]
    assert starts[0] == 1000.0
    assert starts == sorted(starts)
    assert starts[1] == pytest.approx(999.5 + estimates.service_s(running))
    assert all((e.start_s or 0) < (e.first_token_s or 0) <= (e.finish_s or 0) for e in found)


def test_without_an_instance_nothing_is_promised() -> None:
    (found,) = forecast([make_request(1)], [], [], Estimates(), 0.0)
    assert (found.position, found.start_s, found.finish_s) == (1, None, None)


@settings(deadline=None)
@given(
    st.integers(1, 5000),
    st.floats(1e-9, 1e-2),
    st.floats(1e-9, 1e-2),
    st.floats(1e-6, 10),
    st.one_of(st.none(), st.integers(1, 5000)),
)
def test_a_budget_is_kept_or_the_request_refused_with_its_cost(
    prompt: int, input_token: float, output_token: float, budget: float, asked: int | None
) -> None:
    tariff = Tariff(input_token=input_token, output_token=output_token)
    request = make_request(
        1, prompt_tokens=1, cost_budget=budget, sampling=SamplingParams(max_tokens=asked)
    ).request
    least = tariff.cost(prompt, 1)
    if least > budget:
        with pytest.raises(BudgetExceeded, match=re.escape(f"{least:.6g}")):
            within_budget(request, prompt, tariff)
        return
    allowed = within_budget(request, prompt, tariff).sampling.max_tokens
    assert allowed is not None
    assert asked is None or allowed <= asked
    assert tariff.cost(prompt, allowed) <= budget * (1 + 1e-9)


def test_what_costs_nothing_has_no_tariff() -> None:
    assert tariff_of(0.0, Estimates().pace("m")) is None
    tariff = tariff_of(3.6, Estimates().pace("m"))
    assert tariff is not None
    assert tariff.output_token == pytest.approx(0.001 * Estimates().pace("m").output_token_s)
