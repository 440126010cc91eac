"""Any of the supported families: they differ in options, which `ModelConfig` has."""

from sagellm_engine.config import ModelConfig
from sagellm_engine.layers import RotaryTable

from .decoder import AttentionSpec, Decoder, E, Experts, Layer, Mlp, P
from .weights import Weights


def build(
    config: ModelConfig, weights: Weights[P, E], max_model_len: int, declared_len: int | None = None
) -> Decoder[P, E]:
    """The decoder of `config` from its weights, for positions below `max_model_len`; see `RotaryTable`."""
    return Decoder(
        embedding=weights.embedding,
        embedding_scale=config.embedding_scale,
        layers=[_layer(config, weights, index) for index in range(config.num_layers)],
        norm=weights.norm("model.norm"),
        eps=config.rms_norm_eps,
        head=weights.product("lm_head"),
        rotary=[RotaryTable(rope, max_model_len, declared_len) for rope in config.ropes],
        logit_softcap=config.logit_softcap,
    )


def _layer(config: ModelConfig, weights: Weights[P, E], index: int) -> Layer[P]:
    name = f"model.layers.{index}"
    # In Gemma the name that elsewhere means the norm before the feed-forward layer means the one behind attention.
    behind, before = f"{name}.post_attention_layernorm", f"{name}.pre_feedforward_layernorm"
    return Layer(
        attention_norm=weights.norm(f"{name}.input_layernorm"),
        qkv=weights.product(f"{name}.self_attn.qkv"),
        attention=_attention(config, weights, index),
        attention_out=weights.product(f"{name}.self_attn.o_proj"),
        attention_post_norm=weights.norm(behind) if config.post_norms else None,
        mlp_norm=weights.norm(before if config.post_norms else behind),
        mlp=_experts(config, weights, name)
        if config.layers[index].sparse
        else _mlp(config, weights, f"{name}.mlp"),
        mlp_post_norm=weights.norm(f"{name}.post_feedforward_layernorm") if config.post_norms else None,
    )


def _attention(config: ModelConfig, weights: Weights[P, E], index: int) -> AttentionSpec:
    name = f"model.layers.{index}.self_attn"
    return AttentionSpec(
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        scale=config.attention_scale,
        window=config.layers[index].window,
        softcap=config.attention_softcap,
        rotary=config.layers[index].rope,
        q_norm=weights.norm(f"{name}.q_norm") if config.qk_norm else None,
        k_norm=weights.norm(f"{name}.k_norm") if config.qk_norm else None,
    )


def _mlp(config: ModelConfig, weights: Weights[P, E], name: str) -> Mlp[P]:
    return Mlp(
        gate_up=weights.product(f"{name}.gate_up"),
        down=weights.product(f"{name}.down_proj"),
        activation=config.activation,
    )


def _experts(config: ModelConfig, weights: Weights[P, E], name: str) -> Experts[P]:
    assert config.experts is not None, "sparse layers have experts"
    return Experts(
        router=weights.product(f"{name}.mlp.gate"),
        experts=[_mlp(config, weights, f"{name}.mlp.experts.{number}") for number in range(config.experts.count)],
        top_k=config.experts.per_token,
        normalize=config.experts.normalize,
    )
