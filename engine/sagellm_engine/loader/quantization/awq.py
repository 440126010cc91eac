"""AWQ checkpoints in AutoAWQ's GEMM layout.

Of a matrix (out, in) in groups of g inputs the file has:

- `qweight` I32 (in, out / 8) and `qzeros` I32 (in / g, out / 8): eight outputs in a number, from its lowest bits
  those with the places 0, 2, 4, 6, 1, 3, 5, 7.
- `scales` (in / g, out).

weight = scale * (value - zero).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sagellm_engine.weights import GroupQuantized, packed_bits

from .packed_integers import FLOATS, Bytes, integers, minimums, scales
from .scheme import Source, StoredTensor, check_shape, groups_of, part

_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Awq:
    """4 bits; a `group_size` of -1 is the whole row."""

    group_size: int

    @property
    def name(self) -> str:
        """See `Scheme`."""
        return "AWQ"

    def find(self, module: str, stored: Mapping[str, StoredTensor]) -> Source | None:
        """See `Scheme`."""
        if f"{module}.qweight" not in stored:
            return None
        values = part(stored, f"{module}.qweight", ("I32",), 2)
        in_features, packed = values.shape
        group_size, groups = groups_of(module, in_features, self.group_size)
        zeros = part(stored, f"{module}.qzeros", ("I32",), 2)
        check_shape(zeros, (groups, packed))
        factors = part(stored, f"{module}.scales", FLOATS, 2)
        check_shape(factors, (groups, packed * 8))
        return _AwqMatrix((packed * 8, in_features), group_size, values, zeros, factors)


@dataclass(frozen=True, slots=True)
class _AwqMatrix:
    shape: tuple[int, int]
    group_size: int
    values: StoredTensor
    zeros: StoredTensor
    scales: StoredTensor

    @property
    def packed_bits(self) -> float:
        """See `Source`."""
        return packed_bits(4, self.group_size)

    def read(self) -> GroupQuantized:
        """The matrix as `GroupQuantized`."""
        factors = scales(self.scales.read().T)
        zeros = _outputs(integers(self.zeros.read()))
        values = torch.from_numpy(_outputs(integers(self.values.read())))
        return GroupQuantized(values, factors, minimums(factors, zeros), bits=4, group_size=self.group_size)


def _outputs(packed: NDArray[np.int32]) -> Bytes:
    """(rows, out / 8) numbers of eight values each → (out, rows)."""
    numbers = np.ascontiguousarray(packed.T)
    values = np.empty((len(numbers), 8, numbers.shape[1]), np.uint8)
    for position, place in enumerate(_PLACES):
        values[:, place] = (numbers >> (4 * position)) & 15
    return values.reshape(-1, numbers.shape[1])
