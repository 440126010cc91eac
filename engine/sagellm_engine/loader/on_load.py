"""Quantizing a model while it is loaded."""

from collections.abc import Iterator
from functools import partial

from sagellm_engine.weights import GroupQuantized, Weight
from sagellm_engine.weights.rounding import GROUP_SIZE, round_to
from sagellm_schemas import SettingsError

from .checkpoint import Checkpoint
from .read_ahead import read_ahead

_BITS = {"int8": 8, "int4": 4}
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight")


def quantize_on_load(checkpoint: Checkpoint, quantization: str | None) -> Iterator[tuple[str, Weight]]:
    """The tensors of `checkpoint`, with the matrices rounded to `int8` or `int4` if `quantization` says so.

    Embedding and output layer have 8 bits in both: MEASURED. What stays as it is: norms and biases, which are
    small; the routers of a mixture of experts, where a small error chooses another expert; and matrices whose rows
    are no whole number of groups.

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


def _rounded(name: str, weight: Weight, bits: int) -> Weight:
    is_matrix = not isinstance(weight, GroupQuantized) and weight.dim() == 2
    if not is_matrix or name.endswith(_ROUTERS) or weight.shape[1] % GROUP_SIZE:
        return weight
    assert not isinstance(weight, GroupQuantized)
    return round_to(weight, 8 if name.endswith(_TABLES) else bits)
