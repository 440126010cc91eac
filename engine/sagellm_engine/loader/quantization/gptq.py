"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them.

Of a matrix (out, in) in groups of g inputs the file has, with p = 32 / bits:

- `qweight` I32 (in / p, out): p inputs in a number, the first in its lowest bits.
- `qzeros` I32 (in / g, out / p): the zeros of p outputs in a number. Version 1, the usual one, stores them less 1.
- `scales` (in / g, out).
- `g_idx` I32 (in), often: the group of each input.

weight = scale * (value - zero).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sagellm_engine.weights import GroupQuantized, Weight, packed_bits
from sagellm_schemas import ModelLoadError

from .packed_integers import FLOATS, integers, minimums, scales, unpack
from .scheme import Source, StoredTensor, check_shape, groups_of, part

_ONES = {4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True, slots=True)
class Gptq:
    """`bits` is 4 or 8; a `group_size` of -1 is the whole row; `zeros_less_1` in version 1 of the format.

    With `act_order` the groups may be other than runs of inputs.
    """

    bits: int
    group_size: int
    zeros_less_1: bool
    act_order: bool

    @property
    def name(self) -> str:
        """See `Scheme`."""
        return "GPTQ"

    def find(self, module: str, stored: Mapping[str, StoredTensor]) -> Source | None:
        """See `Scheme`."""
        if f"{module}.qweight" not in stored:
            return None
        in_a_number = 32 // self.bits
        values = part(stored, f"{module}.qweight", ("I32",), 2)
        in_features, out_features = values.shape[0] * in_a_number, values.shape[1]
        group_size, groups = groups_of(module, in_features, self.group_size)
        zeros = part(stored, f"{module}.qzeros", ("I32",), 2)
        check_shape(zeros, (groups, -(-out_features // in_a_number)))
        factors = part(stored, f"{module}.scales", FLOATS, 2)
        check_shape(factors, (groups, out_features))
        order = None
        if f"{module}.g_idx" in stored:
            order = part(stored, f"{module}.g_idx", ("I32",), 1)
            check_shape(order, (in_features,))
        return _GptqMatrix(self, (out_features, in_features), group_size, values, zeros, factors, order)


@dataclass(frozen=True, slots=True)
class _GptqMatrix:
    scheme: Gptq
    shape: tuple[int, int]
    group_size: int
    values: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor
    order: StoredTensor | None

    @property
    def packed_bits(self) -> float | None:
        """See `Source`."""
        return None if self.scheme.act_order else packed_bits(self.scheme.bits, self.group_size)

    def read(self) -> Weight:
        """Quantized, or float32 if the groups are not runs of inputs (act-order)."""
        bits = self.scheme.bits
        packed_zeros = integers(self.zeros.read())
        if self.scheme.zeros_less_1:  # a carry undoes the borrow of a zero that was 0
            packed_zeros = (packed_zeros.view(np.uint32) + np.uint32(_ONES[bits])).view(np.int32)
        zeros = unpack(packed_zeros, bits)[:, : self.shape[0]]
        factors = scales(self.scales.read().T)
        values = torch.from_numpy(unpack(integers(self.values.read()).T, bits))
        offsets = minimums(factors, np.ascontiguousarray(zeros.T))
        group_of = self._group_of()
        if group_of is None:
            return GroupQuantized(values, factors, offsets, bits=bits, group_size=self.group_size)
        groups = torch.from_numpy(group_of).long()
        return values.float().mul_(factors[:, groups]).add_(offsets[:, groups])

    def _group_of(self) -> NDArray[np.int32] | None:
        """The group of each input, or None if groups follow one another."""
        if self.order is None:
            return None
        found = integers(self.order.read())
        inputs = np.arange(self.shape[1], dtype=np.int32)
        if np.array_equal(found, inputs // self.group_size):
            return None
        if found.min() < 0 or found.max() >= self.shape[1] // self.group_size:
            raise ModelLoadError(f"tensor {self.order.name} names groups that the weights do not have")
        return found
