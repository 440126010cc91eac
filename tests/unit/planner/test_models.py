"""Shapes: from configs, folders and sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm.planner.find_model import find_model
from sagellm.planner.hf_config import shape_from_hf
from sagellm.planner.typical import known_shapes, typical
from sagellm_schemas import InvalidRequest, ModelLoadError, SageError

from . import configs


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (configs.LLAMA_8B, 8.03e9, 7.5e9),
        (configs.QWEN_05B, 0.494e9, 0.494e9),
        (configs.MISTRAL_7B, 7.24e9, 7.1e9),
        (configs.MIXTRAL, 46.7e9, 12.75e9),
        (configs.QWEN3_30B_A3B, 30.5e9, 3.04e9),
        (configs.DEEPSEEK_V3, 671e9, 36.6e9),
    ],
)
def test_parameters_are_those_that_the_models_have(config: dict[str, Any], total: float, active: float) -> None:
    shape = shape_from_hf(config, "model")
    assert shape.total_params == pytest.approx(total, rel=0.005)
    assert shape.active_params == pytest.approx(active, rel=0.01)  # of the embedding and the head, the head alone


def test_the_cache_of_a_token_is_what_its_attention_keeps() -> None:
    llama, deepseek = shape_from_hf(configs.LLAMA_8B, "llama"), shape_from_hf(configs.DEEPSEEK_V3, "deepseek")
    assert 32 * llama.kv_elements_per_token(1) * 2 == 128 * 1024
    assert llama.kv_elements_per_token(8) == llama.kv_elements_per_token(16) == 256  # one head, or a copy of it
    assert deepseek.kv_elements_per_token(1) == deepseek.kv_elements_per_token(8) == 576


def test_a_quantized_checkpoint_says_so() -> None:
    gptq = configs.LLAMA_8B | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert shape_from_hf(configs.DEEPSEEK_V3, "m").dtype == "fp8"
    assert shape_from_hf(gptq, "m").dtype == "int4"
    assert shape_from_hf(configs.QWEN_05B | {"dtype": "float32"}, "m").dtype == "float32"


def test_the_text_part_of_a_model_that_sees_is_planned() -> None:
    config = {"model_type": "llava", "text_config": configs.LLAMA_8B, "vision_config": {"hidden_size": 1024}}
    assert shape_from_hf(config, "m").hidden_size == 4096


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": None}, "has no hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers must be a whole number"),
        ({"num_key_value_heads": 5}, "no multiple of 5"),
        ({"num_local_experts": 2, "num_experts_per_tok": 3}, "cannot visit 3 of 2 experts"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_a_config_that_cannot_be_planned_is_explained(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        shape_from_hf(configs.LLAMA_8B | change, "m")


@settings(suppress_health_check=[HealthCheck.too_slow])  # the very first examples load hypothesis itself
@given(
    st.dictionaries(
        st.sampled_from(list(configs.DEEPSEEK_V3)),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    )
)
def test_a_damaged_config_gives_a_shape_or_an_error_for_the_user(damage: dict[str, Any]) -> None:
    try:
        shape = shape_from_hf(configs.DEEPSEEK_V3 | damage, "m")
    except SageError:
        return
    assert shape.total_params > 0


def test_a_folder_a_file_and_a_size_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configs.LLAMA_8B))
    assert find_model(str(folder)) == find_model(str(folder / "config.json"))
    assert find_model(str(folder)).name == "llama"
    assert find_model("8B").hidden_size == 4096


@pytest.mark.parametrize(
    ("content", "says"), [("{", "is no JSON"), ("[]", "not a JSON object"), ("{}", "has no hidden_size")]
)
def test_a_file_that_is_no_config_is_explained(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ModelLoadError, match=says):
        find_model(str(path))


def test_what_is_no_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="a size such as 8B"):
        find_model("no such thing")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        find_model(str(tmp_path))
    for size in ("0B", "99999999B", "1x7B"):
        with pytest.raises(InvalidRequest):
            find_model(size)


def test_a_model_that_is_neither_cached_nor_reachable_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="could not be fetched from Hugging Face"):
        find_model("an-organization/a-model-that-is-nowhere")


@given(st.floats(0.1, 9000))
def test_a_typical_shape_has_about_the_size_that_was_named(billions: float) -> None:
    shape = typical(f"{billions:.3f}B")
    assert shape is not None
    assert shape.total_params == pytest.approx(billions * 1e9, rel=0.3 if billions < 1 else 0.08)


def test_mixtures_by_size_are_those_that_exist() -> None:
    small, large = typical("8x7B"), typical("8x22b")
    assert small is not None
    assert large is not None
    assert small.total_params == pytest.approx(46.7e9, rel=0.01)
    assert large.total_params == pytest.approx(141e9, rel=0.01)


def test_known_shapes_are_in_the_order_of_their_size() -> None:
    sizes = [shape.total_params for shape in known_shapes()]
    assert sizes == sorted(sizes)
