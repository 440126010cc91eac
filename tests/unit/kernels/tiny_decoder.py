"""A small decoder of random weights, with what families have and have not, for any packer."""

import random

import torch

from sagellm_engine.execution import Packer
from sagellm_engine.layers import RotaryTable
from sagellm_engine.models.decoder import AttentionSpec, Decoder, E, Experts, Layer, Mlp, P
from sagellm_engine.weights import GroupQuantized

HIDDEN, VOCABULARY, POSITIONS = 32, 60, 64


def tiny_decoder(
    packer: Packer[P, E],
    *,
    gemma: bool = False,
    quantized: bool = False,
    bias: bool = False,
    experts: bool = False,
) -> Decoder[P, E]:
    """Two layers. With `gemma` all that Gemma 2 and 3 do otherwise than Llama; the same weights at every call."""
    generator = torch.Generator().manual_seed(5)
    head_dim, num_heads, num_kv_heads, middle = 48, 2, 1, 64

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def matrix(out_features: int, in_features: int) -> torch.Tensor | GroupQuantized:
        if not quantized:
            return normal(out_features, in_features) * in_features**-0.5
        groups = (out_features, in_features // 32)
        return GroupQuantized(
            torch.randint(0, 16, (out_features, in_features), dtype=torch.uint8, generator=generator),
            (normal(*groups) * 0.02).half().float(),
            (normal(*groups) * 0.02).half().float(),
            bits=4,
            group_size=32,
        )

    def product(*out_features: int, inputs: int) -> P:
        parts = [matrix(size, inputs) for size in out_features]
        return packer.product(parts, normal(sum(out_features)) if bias else None)

    def mlp() -> Mlp[P]:
        gate_up = product(middle, middle, inputs=HIDDEN)
        return Mlp(gate_up, product(HIDDEN, inputs=middle), "gelu_tanh" if gemma else "silu")

    def layer(index: int) -> Layer[P]:
        attention = AttentionSpec(
            num_heads,
            num_kv_heads,
            head_dim,
            scale=0.3,
            window=7 if gemma and index == 0 else None,
            softcap=5.0 if gemma else None,
            rotary=index if gemma else 0,
            q_norm=normal(head_dim) if gemma else None,
            k_norm=normal(head_dim) if gemma else None,
        )
        width = num_kv_heads * head_dim
        return Layer(
            attention_norm=normal(HIDDEN),
            qkv=product(num_heads * head_dim, width, width, inputs=HIDDEN),
            attention=attention,
            attention_out=product(HIDDEN, inputs=num_heads * head_dim),
            attention_post_norm=normal(HIDDEN) if gemma else None,
            mlp_norm=normal(HIDDEN),
            mlp=Experts(product(5, inputs=HIDDEN), [mlp() for _ in range(5)], top_k=2, normalize=index == 0)
            if experts
            else mlp(),
            mlp_post_norm=normal(HIDDEN) if gemma else None,
        )

    return Decoder(
        embedding=packer.embedding(normal(VOCABULARY, HIDDEN)),
        embedding_scale=8.0 if gemma else 1.0,
        layers=[layer(0), layer(1)],
        norm=normal(HIDDEN),
        eps=1e-6,
        head=product(VOCABULARY, inputs=HIDDEN),
        rotary=[_angles(24, 0.5), _angles(16 if gemma else 24, 0.1)],
        logit_softcap=10.0 if gemma else None,
    )


def random_tokens(count: int, seed: int) -> list[int]:
    pick = random.Random(seed)
    return [pick.randrange(VOCABULARY) for _ in range(count)]


def _angles(pairs: int, base: float) -> RotaryTable:
    table = RotaryTable.__new__(RotaryTable)
    angles = torch.outer(torch.arange(POSITIONS).float(), base ** (torch.arange(pairs) / pairs))
    table.cos, table.sin = angles.cos(), angles.sin()
    return table
