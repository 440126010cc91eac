import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_engine.config import ModelConfig
from sagellm_schemas import ModelLoadError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}


def test_missing_keys_that_have_a_meaning_get_it() -> None:
    config = ModelConfig.from_hf(LLAMA)
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert config.rope_scaling is None
    assert not config.tie_word_embeddings
    assert config.dtype == "float32"


def test_null_means_missing() -> None:
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "sliding_window", "torch_dtype"))
    assert ModelConfig.from_hf(LLAMA | nulls) == ModelConfig.from_hf(LLAMA)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"},
        {"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}, "dtype": "bfloat16"},
    ],
)
def test_old_and_new_spellings_of_rope_and_dtype_are_the_same(keys: dict[str, Any]) -> None:
    config = ModelConfig.from_hf(LLAMA | keys)
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert config.dtype == "bfloat16"


def test_default_rope_parameters_are_no_scaling() -> None:
    config = ModelConfig.from_hf(LLAMA | {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}})
    assert (config.rope_theta, config.rope_scaling) == (1e5, None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": "64"}, "hidden_size '64', which is no int"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers 2.5, which is no int"),
        ({"num_hidden_layers": 10**9}, "must be from 1 to 10000"),
        ({"vocab_size": 0}, "vocab_size 0, which must be from 1"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "no multiple"),
        ({"head_dim": 15}, "even"),
        ({"rms_norm_eps": None}, "no rms_norm_eps"),
        ({"rope_theta": -1.0}, "above 0"),
        ({"rope_scaling": "linear"}, "rope_scaling 'linear', which is no dict"),
        ({"dtype": "int8"}, "supported are bfloat16, float16, float32"),
        ({"hidden_act": "gelu"}, "only 'silu'"),
        ({"sliding_window": 64}, "only full attention"),
        ({"architectures": None}, "no architectures"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM",
        ),
    ],
)
def test_a_config_we_cannot_run_is_refused_saying_why(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        ModelConfig.from_hf(LLAMA | keys)


def test_a_sliding_window_as_wide_as_the_context_is_none() -> None:
    mistral = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 128}
    assert ModelConfig.from_hf(mistral).architecture == "MistralForCausalLM"


odd_values = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1,
        3,
        2**70,
        0.0,
        1.5,
        -1000000000.0,
        float("inf"),
        "",
        "4",
        "yarn",
        [],
        [1],
        {},
        {"type": 1},
        {"rope_theta": "x"},
        {"rope_type": "yarn", "factor": None},
    ]
)
keys = st.sampled_from(
    [*LLAMA, "num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "rope_parameters"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.dictionaries(keys, odd_values, max_size=3))
def test_no_value_of_any_key_gets_past_unless_it_makes_sense(changes: dict[str, Any]) -> None:
    with contextlib.suppress(ModelLoadError):
        config = ModelConfig.from_hf(LLAMA | changes)
        assert config.head_dim % 2 == 0
        assert config.num_heads % config.num_kv_heads == 0
        assert config.rope_theta > 0
