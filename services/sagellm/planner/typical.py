"""Typical shapes for sizes like `70B` and `8x7B`, from well-known open models."""

import math
import re

import msgspec

from sagellm_schemas import InvalidRequest

from .model_shape import Experts, ModelShape

_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])", re.IGNORECASE)
_SMALLEST, _LARGEST = 0.05e9, 10_000e9
_AS_IT_IS = (0.99, 1.04)
"""A known model with so many times the parameters has that size: names are rounded, mostly down."""
EXPERTS_PER_TOKEN = 2


def _shape(name: str, numbers: tuple[int, ...], *, gated: bool = True, tied: bool = False) -> ModelShape:
    layers, hidden, heads, kv_heads, intermediate, vocabulary, positions = numbers
    return ModelShape(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        max_positions=positions,
        gated=gated,
        tied_embeddings=tied,
    )


def known_shapes() -> tuple[ModelShape, ...]:
    """Dense models whose shape a size may take, the smallest first."""
    return (
        _shape("SmolLM2-135M", (30, 576, 9, 3, 1536, 49152, 8192), tied=True),
        _shape("Qwen2.5-0.5B", (24, 896, 14, 2, 4864, 151936, 32768), tied=True),
        _shape("Llama-3.2-1B", (16, 2048, 32, 8, 8192, 128256, 131072), tied=True),
        _shape("Llama-3.2-3B", (28, 3072, 24, 8, 8192, 128256, 131072), tied=True),
        _shape("Mistral-7B", (32, 4096, 32, 8, 14336, 32768, 32768)),
        _shape("Llama-3.1-8B", (32, 4096, 32, 8, 14336, 128256, 131072)),
        _shape("Llama-2-13B", (40, 5120, 40, 40, 13824, 32000, 4096)),
        _shape("Qwen2.5-14B", (48, 5120, 40, 8, 13824, 152064, 32768)),
        _shape("Mistral-Small-22B", (56, 6144, 48, 8, 16384, 32768, 32768)),
        _shape("Qwen2.5-32B", (64, 5120, 40, 8, 27648, 152064, 32768)),
        _shape("CodeLlama-34B", (48, 8192, 64, 8, 22016, 32000, 16384)),
        _shape("Llama-3.1-70B", (80, 8192, 64, 8, 28672, 128256, 131072)),
        _shape("Mistral-Large-123B", (88, 12288, 96, 8, 28672, 32768, 131072)),
        _shape("GPT-3-175B", (96, 12288, 96, 96, 49152, 50257, 8192), gated=False, tied=True),
        _shape("Llama-3.1-405B", (126, 16384, 128, 8, 53248, 128256, 131072)),
    )


def typical(size: str) -> ModelShape | None:
    """The shape that a model of `size` has typically; None if `size` is not a size.

    `70B` and `135M` are dense; `8x7B` is a mixture of 8 experts of which a token visits 2, each as wide as the
    MLP of a 7B model, with that model's attention: as Mixtral was made.

    Raises:
        InvalidRequest: a size that no model has.
    """
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        return None
    params = float(found[2]) * (1e9 if found[3] in "bB" else 1e6)
    if not _SMALLEST <= params <= _LARGEST:
        raise InvalidRequest(f"a model of {size} is beyond what can be planned: 50M to 10000B", param="model")
    shape = msgspec.structs.replace(_dense(params), name=size)
    if found[1] is None:
        return shape
    count = int(found[1])
    if not EXPERTS_PER_TOKEN <= count <= 1024:
        raise InvalidRequest(f"a mixture has 2 to 1024 experts; got {size}", param="model")
    experts = Experts(
        count=count,
        per_token=EXPERTS_PER_TOKEN,
        intermediate_size=shape.intermediate_size,
        layers=shape.layers,
    )
    return msgspec.structs.replace(shape, experts=experts)


def _dense(params: float) -> ModelShape:
    """The known shape nearest in size, with as many layers as it takes."""
    near = min(known_shapes(), key=lambda shape: abs(math.log(shape.total_params / params)))
    least, most = _AS_IT_IS
    if least <= near.total_params / params <= most:
        return near
    ends = near.embedding_params * (1 if near.tied_embeddings else 2)
    per_layer = near.common_params / near.layers
    return msgspec.structs.replace(near, layers=max(1, round((params - ends) / per_layer)))
