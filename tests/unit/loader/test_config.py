import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_engine.config import LinearScaling, Rope, read_hf_config
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
    config = read_hf_config(LLAMA)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert config.ropes == (Rope(theta=10000.0, rotated=16),)
    assert not config.tie_word_embeddings
    assert config.dtype == "float32"


def test_null_means_missing() -> None:
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "sliding_window", "torch_dtype"))
    assert read_hf_config(LLAMA | nulls) == read_hf_config(LLAMA)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"},
        {"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}, "dtype": "bfloat16"},
    ],
)
def test_old_and_new_spellings_of_rope_and_dtype_are_the_same(keys: dict[str, Any]) -> None:
    config = read_hf_config(LLAMA | keys)
    assert config.ropes == (Rope(theta=500000.0, rotated=16, scaling=LinearScaling(factor=2.0)),)
    assert config.dtype == "bfloat16"


def test_default_rope_parameters_are_no_scaling() -> None:
    config = read_hf_config(LLAMA | {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}})
    assert config.ropes == (Rope(theta=1e5, rotated=16),)


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
        ({"hidden_act": "gelu"}, "hidden_act 'gelu', which is not supported; supported are silu"),
        ({"rope_scaling": {"type": "spiral"}}, "rope scaling 'spiral' is not supported; supported are default"),
        ({"rope_scaling": {"type": "linear"}}, "rope scaling 'linear' that is wrong: .* `factor`"),
        ({"rope_scaling": {"type": "yarn", "factor": -1}}, "'yarn' that is wrong: .*factor"),
        ({"partial_rotary_factor": 0.5}, "rotates 8 of 16 dimensions"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "by type of layer"),
        ({"architectures": None}, "no architectures"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, MistralForCausalLM, Mixtral",
        ),
    ],
)
def test_a_config_we_cannot_run_is_refused_saying_why(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        read_hf_config(LLAMA | keys)


def test_a_sliding_window_as_wide_as_the_context_is_none() -> None:
    mistral = LLAMA | {"architectures": ["MistralForCausalLM"]}
    assert [layer.window for layer in read_hf_config(mistral | {"sliding_window": 128}).layers] == [None, None]
    assert [layer.window for layer in read_hf_config(mistral | {"sliding_window": 127}).layers] == [127, 127]


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
        config = read_hf_config(LLAMA | changes)
        assert config.head_dim % 2 == 0
        assert config.num_heads % config.num_kv_heads == 0
        assert config.ropes[0].theta > 0
