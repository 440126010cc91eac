"""Adapters as the compiled kernels take them (kernels/lora.h)."""

import ctypes
from collections.abc import Sequence

import torch

from sagellm_engine.lora import Adapter, LowRank, ProductKind

from . import structs

_PADDING = 32


class NativeAdapters:
    """The structs of some adapters, and the memory they point to.

    `address` is that of an array (adapters, layers); `most_rank` is the highest rank of a product, all its parts
    together.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._kept: list[object] = []
        self.most_rank = 0
        layers = [layer for adapter in adapters for layer in adapter.layers]
        self._layers = (structs.Adapter * len(layers))(*map(self._layer, layers))
        self.address = ctypes.addressof(self._layers)

    def _layer(self, layer: dict[ProductKind, tuple[LowRank, ...]]) -> structs.Adapter:
        return structs.Adapter(**{kind: self._delta(parts) for kind, parts in layer.items()})

    def _delta(self, parts: tuple[LowRank, ...]) -> structs.Delta:
        made = (structs.LowRank * len(parts))(*map(self._low_rank, parts))
        self._kept.append(made)
        self.most_rank = max(self.most_rank, sum(part.rank for part in made))
        return structs.Delta(len(parts), made)

    def _low_rank(self, part: LowRank) -> structs.LowRank:
        rank, ins = part.a.shape
        a = torch.nn.functional.pad(part.a, (0, -ins % _PADDING)).contiguous()
        b = part.b.T.contiguous()
        self._kept += [a, b]
        return structs.LowRank(part.first_row, len(part.b), rank, a.data_ptr(), b.data_ptr())
