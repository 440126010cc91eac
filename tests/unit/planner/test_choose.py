"""What is chosen: the original's table, limits, properties of every choice, and refusals."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm.planner import GPUS, Choice, Gpu, Layout, ModelShape, Objective, Workload, choose
from sagellm.planner.candidates import Formats
from sagellm.planner.find_model import find_model
from sagellm.planner.hf_config import shape_from_hf
from sagellm.planner.memory import GIB, UTILIZATION
from sagellm.planner.rule_of_thumb import distance
from sagellm_schemas import InvalidRequest, OutOfMemory

from . import configs

H100 = GPUS["h100"]


def chosen(model: str, gpus: int, **changes: Any) -> Layout:
    workload = Workload(**changes)
    return choose(find_model(model), H100, gpus, workload).chosen.layout


@pytest.mark.parametrize(
    ("model", "gpus", "recommended"),
    [
        *[(size, 1, {"TP=1"}) for size in ("1B", "3B", "7B", "8B", "9B")],
        *[(size, 2, {"TP=1 DP=2", "TP=2"}) for size in ("1B", "3B", "7B", "8B", "9B")],
        *[(size, 4, {"TP=4"}) for size in ("10B", "13B", "14B", "20B", "29B")],
        *[(size, 2, {"TP=2"}) for size in ("10B", "13B", "14B", "20B", "29B")],  # as near as two GPUs come
        *[(size, 4, {"TP=4"}) for size in ("30B", "32B", "34B", "65B")],
        *[(size, 8, {"TP=4 DP=2", "TP=8"}) for size in ("30B", "32B", "34B", "65B")],
        *[(size, 8, {"TP=4 PP=2"}) for size in ("70B", "72B", "123B", "175B")],
        *[(size, 16, {"TP=4 PP=2 DP=2"}) for size in ("70B", "72B", "123B", "175B")],
        *[(size, 32, {"TP=8 PP=4"}) for size in ("180B", "405B")],
        *[(size, 16, {"TP=8 PP=2"}) for size in ("180B", "405B")],  # as near as sixteen GPUs come
        ("405B", 64, {"TP=8 PP=4 DP=2"}),
    ],
)
def test_the_choice_agrees_with_the_recommendations_of_the_original(
    model: str, gpus: int, recommended: set[str]
) -> None:
    assert str(chosen(model, gpus)) in recommended


def test_more_requests_than_the_usual_split_carries_take_another() -> None:
    usual = choose(find_model("13B"), H100, 8, Workload())
    assert str(usual.chosen.layout) == "TP=4 DP=2"
    assert usual.chosen.forecast is not None
    rate = usual.chosen.forecast.capacity_per_s * 1.02
    choice = choose(find_model("13B"), H100, 8, Workload(rate_per_s=rate))
    assert choice.chosen.layout != usual.chosen.layout
    assert choice.chosen.forecast is not None
    assert choice.chosen.forecast.sufficient
    assert any("carries" in rated.why for rated in choice.rated)


def test_objectives_are_what_they_say() -> None:
    shape = find_model("34B")
    told = {}
    for objective in Objective:
        told[objective] = choose(shape, H100, 8, Workload(), objective=objective).chosen.forecast
    fast, much, auto = told[Objective.LATENCY], told[Objective.THROUGHPUT], told[Objective.AUTO]
    assert fast is not None
    assert much is not None
    assert auto is not None
    assert fast.tpot_ms == min(t.tpot_ms for t in (fast, much, auto))
    assert much.capacity_per_s == max(t.capacity_per_s for t in (fast, much, auto))


def test_experts_are_spread_over_gpus_only_where_there_are_experts() -> None:
    dense = choose(find_model("70B"), H100, 8, Workload())
    mixed = choose(shape_from_hf(configs.MIXTRAL, "mixtral"), H100, 8, Workload())
    assert all(rated.candidate.layout.ep == 1 for rated in dense.rated)
    assert mixed.chosen.layout.ep > 1
    assert 8 % (mixed.chosen.layout.tp * mixed.chosen.layout.ep) == 0


def test_a_large_mixture_of_experts_with_latent_attention_is_planned() -> None:
    shape = shape_from_hf(configs.DEEPSEEK_V3, "deepseek")
    choice = choose(shape, GPUS["h200"], 8, Workload(), Formats(shape.dtype))
    assert choice.chosen.layout.gpus == 8


def test_heads_that_cannot_be_split_are_named() -> None:
    shape = shape_from_hf(configs.QWEN_05B, "qwen")
    choice = choose(shape, H100, 8, Workload())
    assert {rated.candidate.layout.tp for rated in choice.rated} == {1, 2}
    assert "14 attention heads cannot be split over TP=4" in choice.impossible


def test_tensor_parallelism_stays_within_a_machine() -> None:
    small = msgspec.structs.replace(H100, per_node=2)
    choice = choose(find_model("70B"), small, 8, Workload())
    assert all(rated.candidate.layout.tp <= 2 for rated in choice.rated)


def test_latency_goals_rule_layouts_out() -> None:
    shape = find_model("70B")
    loose = choose(shape, H100, 8, Workload(), objective=Objective.THROUGHPUT).chosen.forecast
    assert loose is not None
    tight = Workload(tpot_slo_ms=loose.tpot_ms / 2)
    choice = choose(shape, H100, 8, tight, objective=Objective.THROUGHPUT)
    assert choice.chosen.forecast is not None
    assert choice.chosen.forecast.tpot_ms <= loose.tpot_ms / 2
    assert any(rated.why.startswith("misses the latency goals") for rated in choice.rated)


def test_a_rate_says_how_many_gpus_it_takes() -> None:
    shape = find_model("8B")
    few = choose(shape, H100, 8, Workload(rate_per_s=1.0))
    many = choose(shape, H100, 1, Workload(rate_per_s=100.0))
    assert few.gpus_needed == 1
    assert many.gpus_needed is not None
    assert many.gpus_needed > 1
    assert many.chosen.forecast is not None
    assert not many.chosen.forecast.sufficient


def refused(model: str, gpus: int, formats: Formats | None = None, **changes: Any) -> str:
    with pytest.raises(OutOfMemory) as error:
        choose(find_model(model), H100, gpus, Workload(**changes), formats)
    return error.value.message


def test_a_model_that_cannot_fit_is_refused_with_what_would_fit() -> None:
    message = refused("70B", 1)
    gpus, dtype = re.findall(r"--gpus (\d+), or --dtype (\w+)", message)[0]
    assert choose(find_model("70B"), H100, int(gpus), Workload())
    assert choose(find_model("70B"), H100, 1, Workload(), Formats(dtype))
    with pytest.raises(OutOfMemory):
        choose(find_model("70B"), H100, int(gpus) - 1, Workload())


def test_a_context_that_cannot_fit_is_refused_with_one_that_would() -> None:
    message = refused("34B", 1, context_tokens=60_000)
    found = re.search(r"--context (\d+)", message)
    assert found is not None
    assert choose(find_model("34B"), H100, 1, Workload(context_tokens=int(found[1])))
    with pytest.raises(OutOfMemory):
        choose(find_model("34B"), H100, 1, Workload(context_tokens=int(found[1]) + 1))


def test_what_nothing_could_help_is_said_to_be_so() -> None:
    tiny = msgspec.structs.replace(H100, memory_gib=1.0)
    with pytest.raises(OutOfMemory, match="GPUs with more memory would"):
        choose(find_model("8B"), tiny, 2, Workload())


@pytest.mark.parametrize(
    "changes",
    [
        {"input_tokens": 0},
        {"output_tokens": -1},
        {"rate_per_s": float("nan")},
        {"rate_per_s": -1.0},
        {"tpot_slo_ms": 0.0},
        {"input_tokens": 9000},
        {"max_seqs": 0},
    ],
)
def test_a_workload_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        choose(find_model("8B"), H100, 1, Workload(**changes))


@pytest.mark.parametrize("gpus", [0, -1, 1025])
def test_a_number_of_gpus_out_of_range_is_refused(gpus: int) -> None:
    with pytest.raises(InvalidRequest, match="gpus must be between"):
        choose(find_model("8B"), H100, gpus, Workload())


def merit(shape: ModelShape, choice: Choice) -> tuple[float, ...]:
    told = choice.chosen.forecast
    assert told is not None
    return (told.sufficient, -distance(shape, choice.chosen.layout) if told.sufficient else 0, told.capacity_per_s)


shapes = st.sampled_from(
    [find_model(size) for size in ("0.5B", "3B", "8B", "13B", "34B", "70B", "8x7B")]
    + [shape_from_hf(configs.QWEN3_30B_A3B, "qwen3")]
)
workloads = st.builds(
    Workload,
    input_tokens=st.integers(1, 4000),
    output_tokens=st.integers(1, 1000),
    rate_per_s=st.sampled_from([0.0, 0.5, 5.0, 50.0]),
    context_tokens=st.integers(5000, 16000),
    tpot_slo_ms=st.sampled_from([None, 30.0, 100.0]),
)
gpu_kinds = st.sampled_from(list(GPUS.values()))
formats = st.builds(Formats, st.sampled_from(["bfloat16", "fp8", "int4"]), st.sampled_from(["bfloat16", "fp8"]))


def try_choose(
    shape: ModelShape, gpu: Gpu, gpus: int, load: Workload, numbers: Formats, goal: Objective
) -> Choice | None:
    try:
        return choose(shape, gpu, gpus, load, numbers, goal)
    except OutOfMemory:
        return None


@settings(max_examples=30, deadline=None)
@given(shapes, gpu_kinds, st.integers(1, 20), workloads, formats, st.sampled_from(Objective))
def test_every_candidate_fits_the_gpus_and_their_memory(
    shape: ModelShape, gpu: Gpu, gpus: int, load: Workload, numbers: Formats, goal: Objective
) -> None:
    choice = try_choose(shape, gpu, gpus, load, numbers, goal)
    for rated in choice.rated if choice else ():
        layout, needs, told = rated.candidate.layout, rated.candidate.memory, rated.candidate.forecast
        assert layout.tp * layout.pp * layout.dp * layout.ep == layout.gpus <= gpus
        assert shape.heads % layout.tp == 0
        held = needs.weight_bytes + needs.activation_bytes + needs.overhead_bytes
        assert held + load.context_tokens * needs.kv_bytes_per_token <= gpu.memory_gib * GIB * UTILIZATION + 1
        assert needs.weight_bytes * layout.replica_gpus >= shape.total_params * 0.5  # int4, the smallest
        assert told is not None
        assert told.ttft_ms > 0
        assert told.tpot_ms > 0
        assert rated.why


@settings(max_examples=20, deadline=None)
@given(shapes, gpu_kinds, st.integers(1, 16), st.integers(1, 4), workloads, formats)
def test_more_gpus_never_make_the_plan_worse(
    shape: ModelShape, gpu: Gpu, gpus: int, more: int, load: Workload, numbers: Formats
) -> None:
    less = try_choose(shape, gpu, gpus, load, numbers, Objective.AUTO)
    if less is not None:
        better = choose(shape, gpu, gpus + more, load, numbers)
        assert merit(shape, better) >= merit(shape, less)
        most = [choose(shape, gpu, n, load, numbers, Objective.THROUGHPUT).chosen for n in (gpus, gpus + more)]
        assert most[0].forecast is not None
        assert most[1].forecast is not None
        assert most[1].forecast.capacity_per_s >= most[0].forecast.capacity_per_s


@settings(max_examples=20, deadline=None)
@given(shapes, gpu_kinds, st.integers(1, 12), workloads)
def test_smaller_weights_never_make_a_model_fit_less(
    shape: ModelShape, gpu: Gpu, gpus: int, load: Workload
) -> None:
    rooms = []
    for dtype in ("bfloat16", "fp8", "int4"):
        choice = try_choose(shape, gpu, gpus, load, Formats(dtype), Objective.THROUGHPUT)
        rooms.append(max((r.candidate.memory.kv_bytes for r in choice.rated), default=0) if choice else 0)
    assert rooms == sorted(rooms)
