"""The configs of well-known models, as they are on the Hub, with keys of several years."""

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_engine.config import (
    SUPPORTED_ARCHITECTURES,
    ExpertsConfig,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
    read_hf_config,
)
from sagellm_engine.layers import RotaryTable
from sagellm_engine.loader.expected_tensors import expected_shapes
from sagellm_schemas import ModelLoadError

Config = dict[str, Any]


def config_of(architecture: str, **values: Any) -> Config:
    """A config with what all of them have; None leaves a key out."""
    common: Config = {
        "architectures": [architecture],
        "vocab_size": 32000,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
    }
    return {key: value for key, value in (common | values).items() if value is not None}


def windows_of(config: Config) -> list[int | None]:
    return [layer.window for layer in read_hf_config(config).layers]


def test_llama_3_scaling() -> None:
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    config = read_hf_config(config_of("LlamaForCausalLM", rope_theta=500000.0, rope_scaling=scaling))
    expected = Llama3Scaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192.0
    )
    assert config.ropes == (Rope(theta=5e5, rotated=16, scaling=expected),)


def test_mistral_has_a_window_in_every_layer_unless_it_says_null() -> None:
    assert windows_of(config_of("MistralForCausalLM")) == [4096] * 4
    assert windows_of(config_of("MistralForCausalLM", sliding_window=512)) == [512] * 4
    assert windows_of(config_of("MistralForCausalLM") | {"sliding_window": None}) == [None] * 4


def test_qwen2_has_biases_and_no_window_unless_it_asks_for_one() -> None:
    qwen = config_of("Qwen2ForCausalLM", sliding_window=1024, use_sliding_window=False, max_window_layers=1)
    config = read_hf_config(qwen)
    assert (config.qkv_bias, config.attention_out_bias) == (True, False)
    assert windows_of(qwen) == [None] * 4
    assert windows_of(qwen | {"use_sliding_window": True}) == [None, 1024, 1024, 1024]
    types = ["sliding_attention", "full_attention"] * 2
    assert windows_of(qwen | {"use_sliding_window": True, "layer_types": types}) == [1024, None] * 2


def test_yarn_of_qwen2() -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    [rope] = read_hf_config(config_of("Qwen2ForCausalLM", rope_scaling=yarn)).ropes
    assert rope.scaling == YarnScaling(factor=4.0, original_max_position_embeddings=32768.0)


@pytest.mark.parametrize("count", ["num_experts", "num_local_experts"])
def test_layers_of_qwen3_moe_are_sparse_as_its_config_says(count: str) -> None:
    moe = {"moe_intermediate_size": 48, "num_experts_per_tok": 3, "norm_topk_prob": True, count: 8}
    config = read_hf_config(config_of("Qwen3MoeForCausalLM", **moe))
    assert config.experts == ExpertsConfig(count=8, per_token=3, intermediate_size=48, normalize=True)
    assert [layer.sparse for layer in config.layers] == [True] * 4
    some = moe | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}
    config = read_hf_config(config_of("Qwen3MoeForCausalLM", **some))
    assert [layer.sparse for layer in config.layers] == [False, False, False, True]


def test_mixtral_has_mixtures_in_every_layer() -> None:
    mixtral = config_of("MixtralForCausalLM", num_local_experts=8, num_experts_per_tok=2)
    config = read_hf_config(mixtral | {"sliding_window": None})
    assert config.layers == (LayerConfig(sparse=True),) * 4
    assert config.experts == ExpertsConfig(count=8, per_token=2, intermediate_size=96, normalize=True)
    assert config.ropes[0].theta == 1e6


def test_gemma_2_has_windows_in_every_other_layer_and_softcaps() -> None:
    config = read_hf_config(config_of("Gemma2ForCausalLM", head_dim=32, query_pre_attn_scalar=64))
    assert [layer.window for layer in config.layers] == [4096, None] * 2
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    assert (config.attention_scale, config.embedding_scale, config.norm_offset) == (0.125, 8.0, 1.0)
    assert (config.activation, config.post_norms, config.tie_word_embeddings) == ("gelu_tanh", True, True)
    without = config_of("Gemma2ForCausalLM") | {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    config = read_hf_config(without)
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


GLOBAL = {"rope_type": "linear", "factor": 8.0}
OLD_GEMMA3 = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": GLOBAL, "sliding_window_pattern": 6}
NEW_GEMMA3 = {
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "rope_parameters": {
        "full_attention": GLOBAL | {"rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}


@pytest.mark.parametrize("keys", [{"rope_scaling": GLOBAL}, OLD_GEMMA3, NEW_GEMMA3])
def test_gemma_3_has_two_rotary_embeddings_in_old_and_new_configs(keys: Config) -> None:
    gemma = config_of("Gemma3ForCausalLM", num_hidden_layers=6, sliding_window=512, **keys)
    config = read_hf_config(gemma)
    assert config.ropes == (
        Rope(theta=1e6, rotated=256, scaling=LinearScaling(factor=8.0)),
        Rope(theta=1e4, rotated=256),
    )
    assert config.layers == (LayerConfig(window=512, rope=1),) * 5 + (LayerConfig(rope=0),)


def test_a_gemma_3_that_sees_lists_only_what_is_not_the_default() -> None:
    config = read_hf_config(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16",
            "vision_config": {"hidden_size": 1152},
        }
    )
    assert (config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim) == (2560, 8, 4, 256)
    assert (config.vocab_size, config.max_position_embeddings, config.dtype) == (262208, 131072, "bfloat16")
    assert sum(layer.window is None for layer in config.layers) == 5


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_phi_3_scales_by_longrope_under_all_its_names(name: str) -> None:
    rope = {"short_factor": [1.0] * 8, "long_factor": [2] * 8, "type": name}
    phi3 = config_of("Phi3ForCausalLM", rope_scaling=rope, original_max_position_embeddings=4096)
    config = read_hf_config(phi3 | {"sliding_window": 262144})
    [found] = config.ropes
    assert found.scaling == LongRopeScaling(
        short_factor=(1.0,) * 8, long_factor=(2.0,) * 8, factor=32.0, original_max_position_embeddings=4096.0
    )
    assert config.fused
    assert config.layers == (LayerConfig(),) * 4


def test_phi_4_mini_rotates_a_part_of_each_head() -> None:
    [rope] = read_hf_config(config_of("Phi3ForCausalLM", partial_rotary_factor=0.75)).ropes
    assert rope == Rope(theta=10000.0, rotated=12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_of("DeepseekV3ForCausalLM"),
            "DeepseekV3ForCausalLM is not supported; .*Qwen3MoeForCausalLM.*Phi3",
        ),
        (config_of("GptOssForCausalLM"), "GptOssForCausalLM is not supported"),
        (config_of("Gemma2ForCausalLM", use_bidirectional_attention=True), "use_bidirectional_attention"),
        (config_of("Gemma2ForCausalLM", hidden_activation="relu"), "hidden_activation 'relu', which is not"),
        (config_of("Qwen2ForCausalLM", layer_types=["linear_attention"] * 4), "layers of type linear_attention"),
        (config_of("Qwen2ForCausalLM", layer_types=["full_attention"] * 3), "4 layers, but 3 layer_types"),
        (config_of("MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=3), "num_experts_per_tok 3"),
        (config_of("MixtralForCausalLM", num_experts_per_tok=3), "no num_local_experts"),
        (
            config_of("Phi3ForCausalLM", rope_scaling={"type": "su", "short_factor": [1.0], "long_factor": [1.0]}),
            "1 short and 1 long factors; 8 of each",
        ),
        (config_of("Phi3ForCausalLM", partial_rotary_factor=0.2), "rotates 3 of 16 dimensions"),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(config: Config, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        read_hf_config(config)


ODD_VALUES = st.sampled_from(
    [None, True, 0, -1, 1, 2, 3, 2**70, 0.0, 0.5, 1.0, -1e9, "", "x", "silu", [], [1], ["full_attention"] * 4, {}]
)
SCALING = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
ODD_ROPES = st.builds(
    lambda kind, changes: {"rope_type": kind} | SCALING | FACTORS | changes,
    st.sampled_from(["linear", "llama3", "yarn", "longrope", "dynamic", "su", 1]),
    st.dictionaries(
        st.sampled_from([*SCALING, *FACTORS])
        | st.sampled_from(["rope_theta", "partial_rotary_factor", "full_attention", "attention_factor"])
        | st.sampled_from(["beta_fast", "mscale", "mscale_all_dim", "truncate"]),
        ODD_VALUES,
        max_size=2,
    ),
)
ODD_CHANGES = st.dictionaries(
    st.sampled_from(["sliding_window", "layer_types", "max_window_layers", "use_sliding_window"])
    | st.sampled_from(["num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "mlp_only_layers"])
    | st.sampled_from(["query_pre_attn_scalar", "final_logit_softcapping", "sliding_window_pattern", "rope_theta"])
    | st.sampled_from(
        ["head_dim", "text_config", "hidden_activation", "num_attention_heads", "decoder_sparse_step"]
    ),
    ODD_VALUES,
    max_size=2,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(architecture=st.sampled_from(SUPPORTED_ARCHITECTURES), rope=st.none() | ODD_ROPES, changes=ODD_CHANGES)
def test_an_odd_config_is_refused_in_one_sentence_or_makes_sense(
    architecture: str, rope: Config | None, changes: Config
) -> None:
    base = config_of(
        architecture, head_dim=16, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=8
    )
    with contextlib.suppress(ModelLoadError):
        config = read_hf_config(base | {"rope_parameters": rope} | changes)
        assert expected_shapes(config)
        for rope in config.ropes:
            table = RotaryTable(rope, 8, 64)
            assert torch.isfinite(table.cos).all()
        assert all(layer.rope < len(config.ropes) for layer in config.layers)
        assert config.experts is not None or not any(layer.sparse for layer in config.layers)
