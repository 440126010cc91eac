"""Weights in the layout of the compiled kernels (kernels/weights.h)."""

import ctypes
from enum import IntEnum

import torch

from sagellm_engine.weights import GroupQuantized, Weight

from . import structs
from .arena import Arena

_LANES = 16
_GROUP = 32
_LARGEST_SCALE = 256.0
"""Scales are kept in float16 in a unit that makes the largest about so large: small ones are then exact enough."""


class Kind(IntEnum):
    """How weights are stored, as in kernels/weights.h."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT4 = 3
    INT8 = 4
    INT8_HALVES = 5


DENSE = {torch.float32: Kind.FLOAT32, torch.float16: Kind.FLOAT16, torch.bfloat16: Kind.BFLOAT16}


class NativeProduct:
    """A packed product; `struct` is what the kernels take."""

    def __init__(
        self, arena: Arena, outs: int, ins: int, segments: list[structs.Segment], bias: torch.Tensor | None
    ) -> None:
        self._arena = arena  # the segments' memory
        self._segments = (structs.Segment * len(segments))(*segments)
        self._bias = None if bias is None else bias.float().contiguous()
        self.struct = structs.Product(
            outs, ins, len(segments), self._segments, None if self._bias is None else self._bias.data_ptr()
        )


class NativePacker:
    """Packs weights; dense ones as `dtype`."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._library = library
        self._dtype = dtype
        self._arena = Arena()
        self._embedding: tuple[Weight, NativeProduct] | None = None

    def product(self, parts: list[Weight], bias: torch.Tensor | None) -> NativeProduct:
        """See `Packer`."""
        if self._embedding is not None and len(parts) == 1 and parts[0] is self._embedding[0]:
            return self._embedding[1]  # tied: one copy serves to look up and to score
        kinds = [_kind(part) for part in parts]
        if None in kinds:  # one that must be dense makes all dense: a product's rows take one form
            parts = [p.dequantize() if isinstance(p, GroupQuantized) else p for p in parts]
        segments: list[structs.Segment] = []
        outs, ins = 0, parts[0].shape[1]
        for part in parts:
            segments.append(self._segment(part, outs))
            outs += part.shape[0]
        return NativeProduct(self._arena, outs, ins, segments, bias)

    def embedding(self, weight: Weight) -> NativeProduct:
        """See `Packer`."""
        self._embedding = (weight, self.product([weight], None))
        return self._embedding[1]

    def _segment(self, weight: Weight, first_out: int) -> structs.Segment:
        outs, ins = weight.shape
        if isinstance(weight, GroupQuantized):
            kind, unit = _kind(weight), _unit(weight)
        else:
            weight, unit = weight.to(self._dtype).contiguous(), 1.0
            kind = DENSE[weight.dtype]
        assert kind is not None, "quantized weights that do not fit are made dense before"
        address = self._arena.take(self._library.sage_packed_bytes(kind, outs, ins))
        if isinstance(weight, GroupQuantized):
            values, scales, minimums = (t.contiguous() for t in (weight.values, weight.scales, weight.minimums))
            self._library.sage_pack_quantized(
                kind,
                values.data_ptr(),
                scales.data_ptr(),
                minimums.data_ptr(),
                weight.group_size,
                unit,
                outs,
                ins,
                address,
            )
        else:
            self._library.sage_pack_dense(kind, weight.data_ptr(), outs, ins, address)
        return structs.Segment(kind, first_out, outs, -(-outs // _LANES), unit, address)


def _kind(weight: Weight) -> Kind | None:
    """How a quantized weight is packed; None for a dense one, and where the groups do not fit the kernels."""
    if not isinstance(weight, GroupQuantized):
        return None
    if weight.group_size % _GROUP == 0 or weight.group_size == weight.shape[1]:
        return Kind.INT4 if weight.bits == 4 else Kind.INT8
    return Kind.INT8_HALVES if weight.group_size == _GROUP // 2 else None


def _unit(weight: GroupQuantized) -> float:
    """The power of two that scales and minimums are stored in multiples of."""
    largest = max(float(weight.scales.abs().max()), float(weight.minimums.abs().max()) / 64, 1e-30)
    return 2.0 ** round(float(torch.tensor(largest / _LARGEST_SCALE).log2()))
