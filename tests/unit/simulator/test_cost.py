"""Step times."""

from pathlib import Path

import pytest

from sagellm.simulator.cost import StepClock, interpolate, load_cost_model
from sagellm_schemas import SettingsError


def test_between_rows_times_are_interpolated_and_beyond_them_carried_on() -> None:
    rows = [(2, 10.0), (4, 20.0), (8, 60.0)]
    assert [interpolate(rows, n) for n in (1, 2, 3, 4, 6, 8, 10)] == [10, 10, 15, 20, 40, 60, 80]


def test_the_built_in_model_adds_dense_head_kv_and_attention() -> None:
    clock = StepClock(load_cost_model("h100-llama31-8b"), 2048)
    kv_s = 1000 * 131072 / (0.8 * 3.35e12)
    attention_s = 512 * 1000 * 4 * 4096 * 32 / 400e12
    assert clock.step_s(512, 8, 1000, 512 * 1000) == pytest.approx((16.321 + 0.393) / 1000 + kv_s + attention_s)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be used"),
        ('{"name": "x", "dense_ms": [[1, 2]], "kv_tokens": 9, "colour": 1}', "unknown field"),
        ('{"name": "x", "dense_ms": [], "kv_tokens": 9}', "dense_ms must have rows"),
        ('{"name": "x", "dense_ms": [[2, 1], [1, 1]], "kv_tokens": 9}', "rising numbers of tokens"),
        ('{"name": "x", "dense_ms": [[1, -1]], "kv_tokens": 9}', "times of 0 ms or more"),
        ('{"name": "x", "dense_ms": [[1, 1]], "kv_tokens": 0}', "kv_tokens must be greater than 0"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_cost_model(str(path))
    assert said in error.value.message


def test_a_model_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match="or one of h100-llama31-8b"):
        load_cost_model("h900")
