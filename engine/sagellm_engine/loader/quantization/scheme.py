"""How a quantization method lays one matrix out over several tensors of a file."""

from collections.abc import Mapping
from typing import Protocol

import torch

from sagellm_engine.weights import Weight
from sagellm_schemas import ModelLoadError


class Source(Protocol):
    """What a weight is read from; its shape is known before any data is."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def packed_bits(self) -> float | None:
        """Bits that a weight takes once packed, scales included; None if it is read as a plain tensor."""
        ...

    def read(self) -> Weight:
        """The weight.

        Raises:
            ModelLoadError: the data make no sense.
        """
        ...


class StoredTensor(Protocol):
    """One tensor of a safetensors file, and a `Source` of itself. `dtype` is safetensors' name, such as `BF16`."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def packed_bits(self) -> None: ...

    def read(self) -> torch.Tensor:
        """The tensor, a view of the mapped file."""
        ...


class Scheme(Protocol):
    """A quantization method with the settings of one checkpoint."""

    @property
    def name(self) -> str:
        """The method, for people."""
        ...

    def find(self, module: str, stored: Mapping[str, StoredTensor]) -> Source | None:
        """The matrix of `module`, such as `model.layers.0.mlp.up_proj`, among all tensors `stored` in the files.

        None if it is not quantized.

        Raises:
            ModelLoadError: a part of it is missing, or has a type or shape that the method does not have.
        """
        ...


def part(stored: Mapping[str, StoredTensor], name: str, dtypes: tuple[str, ...], dimensions: int) -> StoredTensor:
    """The tensor `name`.

    Raises:
        ModelLoadError: it is not there, or not of one of `dtypes` with so many dimensions.
    """
    tensor = stored.get(name)
    if tensor is None:
        raise ModelLoadError(f"the quantized weights lack the tensor {name}")
    if tensor.dtype not in dtypes or len(tensor.shape) != dimensions:
        raise ModelLoadError(
            f"tensor {name} is {tensor.dtype} of shape {tensor.shape}; its quantization method needs "
            f"{' or '.join(dtypes)} with {dimensions} dimensions"
        )
    return tensor


def check_shape(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    """
    Raises:
        ModelLoadError: `tensor` has another shape.
    """
    if tensor.shape != shape:
        raise ModelLoadError(
            f"tensor {tensor.name} has shape {tensor.shape}, but the quantization config makes it {shape}"
        )


def groups_of(module: str, in_features: int, group_size: int) -> tuple[int, int]:
    """Size and number of the groups of a row; -1 means that the row is one group.

    Raises:
        ModelLoadError: the groups do not divide the row.
    """
    size = in_features if group_size == -1 else group_size
    if not in_features or in_features % size:
        raise ModelLoadError(
            f"{module} has {in_features} inputs, which is no whole number of groups of {group_size}; "
            "such weights are not supported"
        )
    return size, in_features // size
