"""`ModelConfig`: the shape of a decoder-only transformer, whatever family it is of."""

from typing import Literal

import msgspec

from .rope import Rope

DTYPES = ("bfloat16", "float16", "float32")


class LayerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ between the layers of a model.

    A token sees the last `window` tokens, itself included, or all; `rope` is an index of `ModelConfig.ropes`;
    a `sparse` layer has experts instead of one feed-forward layer.
    """

    window: int | None = None
    rope: int = 0
    sparse: bool = False


class ExpertsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture of `count` experts, of which a token visits the `per_token` best.

    `normalize` scales the weights of those to a sum of 1.
    """

    count: int
    per_token: int
    intermediate_size: int
    normalize: bool


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder-only transformer.

    `dtype` is what the checkpoint was saved in, which is a proposal: the engine may compute in another. `fused`:
    its q, k and v projections are one tensor, and so are gate and up. `post_norms`: attention and feed-forward
    layers have a norm behind them, too. `norm_offset` is added to the scale of every norm. Scores of attention are
    q · k · `attention_scale`, and a softcap `c` makes c · tanh(score / c) of a score.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    dtype: str
    layers: tuple[LayerConfig, ...]
    ropes: tuple[Rope, ...]
    attention_scale: float
    activation: Literal["silu", "gelu_tanh"] = "silu"
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    fused: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    experts: ExpertsConfig | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)
