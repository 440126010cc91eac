"""Llama and what computes like it."""

from sagellm_engine.config import ModelConfig
from sagellm_engine.layers import RotaryTable

from .decoder import AttentionSpec, Decoder, E, Layer, Mlp, P
from .weights import Weights


def build(config: ModelConfig, weights: Weights[P, E], max_model_len: int) -> Decoder[P, E]:
    """The decoder of `config` from its weights.

    Raises:
        ModelLoadError: the model scales its positions in a way that is not known here.
    """
    attention = AttentionSpec(
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        scale=config.head_dim**-0.5,
    )

    def layer(index: int) -> Layer[P]:
        name = f"model.layers.{index}"
        return Layer(
            attention_norm=weights.norm(f"{name}.input_layernorm"),
            qkv=weights.product(f"{name}.self_attn.qkv"),
            attention=attention,
            attention_out=weights.product(f"{name}.self_attn.o_proj"),
            attention_post_norm=None,
            mlp_norm=weights.norm(f"{name}.post_attention_layernorm"),
            mlp=Mlp(gate_up=weights.product(f"{name}.mlp.gate_up"), down=weights.product(f"{name}.mlp.down_proj")),
            mlp_post_norm=None,
        )

    return Decoder(
        embedding=weights.embedding,
        embedding_scale=1.0,
        layers=[layer(index) for index in range(config.num_layers)],
        norm=weights.norm("model.norm"),
        eps=config.rms_norm_eps,
        head=weights.product("lm_head"),
        rotary=[RotaryTable(config, max_model_len)],
    )
