"""`sagellm plan` as users run it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sagellm.cli.main import build
from sagellm.planner.gpus import find_gpu
from sagellm_schemas import InvalidRequest, SageError

from . import configs


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(build(), ["plan", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_plan_is_a_table_with_reasons_and_commands() -> None:
    shown = plan("--model", "70B", "--gpus", "8", "--gpu-memory-gib", "80")
    assert "chosen: the usual split for this size" in shown
    assert "TP=8" in shown
    assert "does not fit: TP=1 DP=8" in shown
    assert "impossible: 64 attention heads cannot be split over TP=3" in shown
    assert "vllm serve MODEL --tensor-parallel-size 4 --pipeline-parallel-size 2" in shown
    assert "sagellm worker --engine vllm" in shown


def test_a_plan_for_programs_is_one_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs.MIXTRAL))
    told = json.loads(plan("--model", str(tmp_path), "--gpus", "8", "--rate", "2", "--json"))
    chosen = told["chosen"]
    product = 1
    for name in ("tensor", "pipeline", "data", "expert"):
        product *= chosen[f"{name}_parallel_size"]
    assert product == chosen["gpus"] <= 8
    assert chosen["forecast"]["sufficient"] is True
    assert told["candidates"][0] == chosen
    assert "--enable-expert-parallel" in told["vllm_flags"]
    assert len(told["commands"]) == chosen["data_parallel_size"]
    assert f"vllm serve {tmp_path} " in told["commands"][0]["vllm"]


def test_replicas_on_several_machines_are_told_apart() -> None:
    told = json.loads(plan("--model", "13B", "--gpus", "16", "--json"))
    assert [one["machine"] for one in told["commands"]] == [0, 0, 1, 1]
    assert told["commands"][3]["vllm"].startswith("CUDA_VISIBLE_DEVICES=4,5,6,7 ")
    assert "on machine 2" in plan("--model", "13B", "--gpus", "16")
    assert "multi-node" in plan("--model", "405B", "--gpus", "32")


def test_quantized_weights_are_asked_of_vllm() -> None:
    flags = json.loads(plan("--model", "70B", "--dtype", "fp8", "--kv-dtype", "fp8", "--json"))["vllm_flags"]
    assert flags[flags.index("--quantization") + 1] == "fp8"
    assert flags[flags.index("--kv-cache-dtype") + 1] == "fp8"


def test_a_rate_that_is_too_high_says_what_it_would_take() -> None:
    shown = plan("--model", "8B", "--gpus", "1", "--rate", "100")
    assert "None of them carries the load" in shown
    assert "of these GPUs would be needed for 100 requests/s" in shown


def test_gpus_that_are_left_over_are_mentioned() -> None:
    assert "1 GPUs are left over" in plan("--model", "13B", "--gpus", "5")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "70B", "--gpus", "1"),
        ("--model", "nothing", "--gpus", "1"),
        ("--model", "8B", "--gpu", "abacus"),
        ("--model", "8B", "--dtype", "float7"),
        ("--model", "8B", "--kv-dtype", "float7"),
        ("--model", "8B", "--objective", "beauty"),
        ("--model", "8B", "--gpu-memory-gib", "-1"),
        ("--model", "8B", "--gpu-memory-gib", "nan"),
        ("--model", "8B", "--context", "999999999"),
        ("--model", "8B", "--rate", "inf"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence_for_the_user(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SageError):
        plan(*arguments)


def test_a_gpu_may_be_described_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(
        '{"name": "mine", "memory_gib": 24, "bf16_tflops": 100, "fp8_tflops": 100, "memory_gb_per_s": 900, '
        '"link_gb_per_s": 20, "per_node": 4}'
    )
    assert find_gpu(str(path)).per_node == 4
    assert "4 x mine of 24 GiB" in plan("--model", "8B", "--gpus", "4", "--gpu", str(path))
    path.write_text('{"name": "mine", "memory": 24}')
    with pytest.raises(InvalidRequest, match="GPU file"):
        find_gpu(str(path))
