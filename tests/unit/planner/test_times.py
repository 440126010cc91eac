"""The time model, against a measured profile and against itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.planner import GPUS, Layout, Workload
from sagellm.planner.forecast import Group
from sagellm.planner.hf_config import shape_from_hf
from sagellm.planner.step_time import Step, StepTimes

from . import configs

LLAMA = shape_from_hf(configs.LLAMA_8B, "llama")
PROFILE_MS = [(1, 8.03), (8, 8.50), (16, 9.06), (1536, 42.6), (2048, 56.5)]
"""Tokens of a step, and its dense layers and LM head on an H100, from LLMServingSim's profile (MIT licence)."""


@pytest.mark.parametrize(("tokens", "measured_ms"), PROFILE_MS)
def test_steps_take_about_what_was_measured(tokens: int, measured_ms: float) -> None:
    step = Step(tokens=tokens, sequences=min(tokens, 8), attended_tokens=0, pairs=0)
    predicted_ms = StepTimes(LLAMA, Layout(), GPUS["h100"], "bfloat16", "bfloat16").stage_s(step) * 1000
    assert predicted_ms == pytest.approx(measured_ms, rel=0.12)


def group(layout: Layout, **changes: int) -> Group:
    times = StepTimes(LLAMA, layout, GPUS["h100"], "bfloat16", "bfloat16")
    return Group(times, layout, Workload(**changes))


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.floats(1, 200), st.floats(1, 200))
def test_more_requests_at_once_end_more_per_second_and_take_longer_each(
    tp: int, pp: int, few: float, many: float
) -> None:
    one = group(Layout(tp=tp, pp=pp))
    few, many = sorted((few, many))
    assert one.rate_per_s(many) >= one.rate_per_s(few) * (1 - 1e-9)
    assert one.tpot_s(many) >= one.tpot_s(few) * (1 - 1e-9)


@given(st.floats(1, 200))
def test_littles_law_holds(running: float) -> None:
    one = group(Layout(tp=2))
    rate = one.rate_per_s(running)
    assert rate * one.request_s(running) == pytest.approx(running)
    assert one.running_at(rate, 256) == pytest.approx(running, rel=1e-6)


def test_a_second_gpu_makes_a_lone_request_faster_but_not_twice() -> None:
    alone, shared = group(Layout()), group(Layout(tp=2))
    assert alone.tpot_s(1) / 2 < shared.tpot_s(1) < alone.tpot_s(1)


def test_stages_do_not_make_a_lone_request_faster() -> None:
    assert group(Layout(pp=4)).tpot_s(1) >= group(Layout()).tpot_s(1)
