"""`Decoder`: what a decoder-only transformer is made of after loading. Data only; an executor computes it.

One block serves every family: attention and a feed-forward layer (dense, or a mixture of experts), each behind an
RMSNorm and, in Gemma, followed by another one. `P` is a matrix product and `E` an embedding as the executor's
`Packer` made them.
"""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch

from sagellm_engine.layers import RotaryTable

P = TypeVar("P")
E = TypeVar("E")

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """How a layer attends: softmax(softcap(q · k · scale)) over the last `window` tokens, or all of them.

    `rotary` is the index of the layer's table in `Decoder.rotary`; `q_norm` and `k_norm` (head_dim), if any, are
    the scales of an RMSNorm over each head before it is rotated.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    rotary: int = 0
    q_norm: torch.Tensor | None = None
    k_norm: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mlp(Generic[P]):
    """down(activation(gate(x)) · up(x)); `gate_up` gives the gates, then the ups, each a part of its own."""

    gate_up: P
    down: P
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True)
class Experts(Generic[P]):
    """A mixture of experts: each row goes to the `top_k` experts with the largest softmax(router(x)).

    Their outputs are weighted with those probabilities, which `normalize` scales to a sum of 1.
    """

    router: P
    experts: list[Mlp[P]]
    top_k: int
    normalize: bool


@dataclass(frozen=True, slots=True)
class Layer(Generic[P]):
    """One block: x += post(attention_out(attend(qkv(norm(x))))); x += post(mlp(norm(x))).

    `qkv` gives all query heads, then the key heads, then the value heads. Norms are the scales of an RMSNorm
    (hidden_size), float32; the `post` ones are None in most families.
    """

    attention_norm: torch.Tensor
    qkv: P
    attention: AttentionSpec
    attention_out: P
    attention_post_norm: torch.Tensor | None
    mlp_norm: torch.Tensor
    mlp: Mlp[P] | Experts[P]
    mlp_post_norm: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Decoder(Generic[P, E]):
    """A whole model.

    `embedding` is (vocabulary, hidden_size); what is looked up is multiplied by `embedding_scale`. `head` scores
    the vocabulary; scores become softcap · tanh(score / softcap) where there is a `logit_softcap`.
    """

    embedding: E
    embedding_scale: float
    layers: list[Layer[P]]
    norm: torch.Tensor
    eps: float
    head: P
    rotary: list[RotaryTable]
    logit_softcap: float | None = None
