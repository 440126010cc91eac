"""compressed-tensors checkpoints whose weights alone are quantized, to whole numbers of 4 or 8 bits.

Of a matrix (out, in) in groups of g inputs the file has, with p = 32 / bits:

- `weight_packed` I32 (out, in / p): p inputs in a number, the first in its lowest bits, each plus 2^(bits-1).
  Or, in 8 bits, `weight` I8 (out, in).
- `weight_scale` (out, in / g).
- `weight_zero_point`, if they are not all 0. Beside packed weights I32 (out / p, in / g), packed in the same way
  but along `out`; beside I8 weights, and in older files, I8 (out, in / g).
- `weight_g_idx` I32 (in), if the groups are not runs of inputs.

weight = scale * (value - zero).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sagellm_engine.weights import GroupQuantized, packed_bits
from sagellm_schemas import ModelLoadError

from .packed_integers import FLOATS, Bytes, integers, minimums, scales, unpack
from .scheme import Source, StoredTensor, check_shape, groups_of, part


@dataclass(frozen=True, slots=True)
class Group:
    """The modules that `targets` name share `bits` and `group_size` (-1: the whole row)."""

    targets: tuple[str, ...]
    bits: int
    group_size: int

    def has(self, module: str) -> bool:
        """Whether `module` is one of them: by its name, a pattern behind `re:`, or as every `Linear` is."""
        return any(
            re.match(target[3:], module) if target.startswith("re:") else target in (module, "Linear")
            for target in self.targets
        )


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """Its groups, of which the first that has a module counts."""

    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """See `Scheme`."""
        return "compressed-tensors"

    def find(self, module: str, stored: Mapping[str, StoredTensor]) -> Source | None:
        """See `Scheme`."""
        packed = f"{module}.weight_packed" in stored
        if not packed and f"{module}.weight_scale" not in stored:
            return None
        group = next((group for group in self.groups if group.has(module)), None)
        if group is None:
            raise ModelLoadError(f"{module} is quantized, but no group of the quantization config has it")
        if f"{module}.weight_g_idx" in stored:
            raise ModelLoadError(
                f"{module} is quantized in the order of its activations (actorder group), which is not supported "
                "for compressed-tensors; use a checkpoint without it"
            )
        if packed:
            values = part(stored, f"{module}.weight_packed", ("I32",), 2)
        else:
            values = part(stored, f"{module}.weight", ("I8",), 2)
        factors = part(stored, f"{module}.weight_scale", FLOATS, 2)
        in_features = values.shape[1] * 32 // group.bits if packed else values.shape[1]
        group_size, groups = groups_of(module, in_features, group.group_size)
        check_shape(factors, (values.shape[0], groups))
        zeros = None
        if f"{module}.weight_zero_point" in stored:
            zeros = part(stored, f"{module}.weight_zero_point", ("I32", "I8"), 2)
            rows = values.shape[0] if zeros.dtype == "I8" else -(-values.shape[0] * group.bits // 32)
            check_shape(zeros, (rows, groups))
        return _Matrix((values.shape[0], in_features), group.bits, group_size, values, factors, zeros)


@dataclass(frozen=True, slots=True)
class _Matrix:
    shape: tuple[int, int]
    bits: int
    group_size: int
    values: StoredTensor
    scales: StoredTensor
    zeros: StoredTensor | None

    @property
    def packed_bits(self) -> float:
        """See `Source`."""
        return packed_bits(self.bits, self.group_size)

    def read(self) -> GroupQuantized:
        """The matrix as `GroupQuantized`; signed values are shifted to begin at 0, and their zeros with them."""
        factors = scales(self.scales.read())
        values = torch.from_numpy(self._numbers(self.values))
        zeros = np.full(factors.shape, 1 << (self.bits - 1), np.uint8) if self.zeros is None else self._zeros()
        return GroupQuantized(
            values, factors, minimums(factors, zeros), bits=self.bits, group_size=self.group_size
        )

    def _numbers(self, tensor: StoredTensor) -> Bytes:
        if tensor.dtype == "I8":
            signed: Bytes = tensor.read().numpy().view(np.uint8)
            return signed + np.uint8(1 << (self.bits - 1))
        return unpack(integers(tensor.read()), self.bits)

    def _zeros(self) -> Bytes:
        assert self.zeros is not None
        if self.zeros.dtype == "I8":
            return self._numbers(self.zeros)
        return np.ascontiguousarray(unpack(integers(self.zeros.read()).T, self.bits).T[: self.shape[0]])
