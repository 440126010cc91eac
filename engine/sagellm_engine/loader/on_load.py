"""Quantizing a model while it is loaded."""

import math
from collections.abc import Iterator
from functools import partial

from sagellm_engine.weights import GroupQuantized, Weight, packed_bits
from sagellm_engine.weights.rounding import GROUP_SIZE, round_to
from sagellm_schemas import SettingsError

from .checkpoint import Checkpoint
from .read_ahead import read_ahead

_BITS = {"int8": 8, "int4": 4}
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight")


def quantize_on_load(checkpoint: Checkpoint, quantization: str | None) -> Iterator[tuple[str, Weight]]:
    """The tensors of `checkpoint`, with the matrices rounded to `int8` or `int4` if `quantization` says so.

    Embedding and output layer have 8 bits in both. On SmolLM2-135M (docs/quantization.md) that makes perplexity
    28.06 in int4, as with 16 bits (28.07), where 4 bits make it 29.69; in int8 it stays where it was.

    What stays as it is: norms and biases, which are small; the routers of a mixture of experts, where a small
    error chooses another expert; and matrices whose rows are no whole number of groups.

    Raises:
        SettingsError: the checkpoint is quantized already.
        ModelLoadError: from the iterator: the data cannot be read.
    """
    if quantization is None:
        return checkpoint.tensors()
    if checkpoint.quantization:
        raise SettingsError(
            f"{checkpoint.name} is quantized already ({checkpoint.quantization}) and runs as it is; "
            "leave quantization out",
            param="quantization",
        )
    bits = _BITS[quantization]
    return read_ahead((name, partial(_rounded, name, weight, bits)) for name, weight in checkpoint.tensors())


def weight_bytes(checkpoint: Checkpoint, quantization: str | None, dtype_bytes: int) -> int:
    """Memory that the weights take, packed as `quantize_on_load` gives them; a plain one takes `dtype_bytes`."""
    packed = checkpoint.packed_bits()
    if quantization is not None:
        for name, shape in checkpoint.shapes().items():
            bits = _bits_of(name, shape, _BITS[quantization])
            if bits is not None:
                packed[name] = packed_bits(bits, GROUP_SIZE)
    sizes = {name: math.prod(shape) for name, shape in checkpoint.shapes().items()}
    return math.ceil(sum(size * packed.get(name, 8 * dtype_bytes) for name, size in sizes.items()) / 8)


def _rounded(name: str, weight: Weight, bits: int) -> Weight:
    kept = _bits_of(name, tuple(weight.shape), bits)
    return weight if kept is None or isinstance(weight, GroupQuantized) else round_to(weight, kept)


def _bits_of(name: str, shape: tuple[int, ...], bits: int) -> int | None:
    """To how many bits the tensor `name` is rounded; None if not at all."""
    if len(shape) != 2 or name.endswith(_ROUTERS) or shape[1] % GROUP_SIZE:
        return None
    return 8 if name.endswith(_TABLES) else bits
