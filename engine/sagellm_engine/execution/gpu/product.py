"""Matrix products on the GPU, and how they are packed: dense ones are cuBLAS's, quantized ones our kernel's."""

import logging

import torch
import torch.nn.functional as F

from sagellm_engine.kernels.packed_weight import PackedWeight, pack
from sagellm_engine.kernels.quantized_matmul import quantized_matmul
from sagellm_engine.weights import GroupQuantized, Weight

log = logging.getLogger(__name__)


class GpuProduct:
    """x (rows, in) → (rows, out) in the dtype of x."""

    def __init__(self, parts: list[torch.Tensor | PackedWeight], bias: torch.Tensor | None) -> None:
        """`parts` are stacked along `out`; `bias` is (out) float32."""
        self.parts = parts
        self._sizes = [part.shape[0] for part in parts]
        self._biases: list[torch.Tensor | None] = [None] * len(parts)
        if bias is not None:
            for place, (part, piece) in enumerate(zip(parts, torch.split(bias, self._sizes), strict=True)):
                self._biases[place] = piece.to(part.dtype) if isinstance(part, torch.Tensor) else piece

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.parts) == 1 and isinstance(self.parts[0], torch.Tensor):
            return F.linear(x, self.parts[0], self._biases[0])
        out = torch.empty(len(x), sum(self._sizes), dtype=x.dtype, device=x.device)
        for part, bias, piece in zip(self.parts, self._biases, torch.split(out, self._sizes, dim=1), strict=True):
            if isinstance(part, torch.Tensor):
                piece.copy_(F.linear(x, part, bias))
            else:
                quantized_matmul(x, part, bias, out=piece)
        return out

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """The same in float32: rounded to bfloat16, many tokens' scores would be equal."""
        weight = self.parts[0]
        if (
            isinstance(weight, torch.Tensor)
            and len(self.parts) == 1
            and x.is_cuda
            and x.dtype is not torch.float32
        ):
            scores = torch.mm(x, weight.T, out_dtype=torch.float32)
            bias = self._biases[0]
            return scores if bias is None else scores.add_(bias)
        return self(x).float()


class GpuPacker:
    """Weights in `dtype` on `device`; quantized ones stay so, except a table of embeddings."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device

    def product(self, parts: list[Weight], bias: torch.Tensor | None) -> GpuProduct:
        """See `Packer`."""
        packed: list[torch.Tensor | PackedWeight] = []
        for alike in _runs(parts):
            if isinstance(alike[0], torch.Tensor):
                packed.append(torch.cat([self._dense(part) for part in alike]))
            else:
                quantized = GroupQuantized.cat([part for part in alike if isinstance(part, GroupQuantized)])
                packed.append(self._pack(quantized))
        return GpuProduct(packed, None if bias is None else bias.to(self.device, torch.float32))

    def embedding(self, weight: Weight) -> torch.Tensor:
        """See `Packer`."""
        return self._dense(weight)

    def _dense(self, weight: Weight) -> torch.Tensor:
        weight = weight.dequantize() if isinstance(weight, GroupQuantized) else weight
        return weight.to(self.device, self.dtype, copy=True)

    def _pack(self, weight: GroupQuantized) -> torch.Tensor | PackedWeight:
        try:
            return pack(weight, self.device)
        except ValueError as error:
            log.warning("%s: they are inflated to %s", error, self.dtype)
            return self._dense(weight)


def _runs(parts: list[Weight]) -> list[list[Weight]]:
    """Neighbours that can be stacked: dense ones, or of equal bits and group size."""
    runs: list[list[Weight]] = []
    for part in parts:
        if runs and _form(runs[-1][0]) == _form(part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _form(weight: Weight) -> tuple[int, int] | None:
    return (weight.bits, weight.group_size) if isinstance(weight, GroupQuantized) else None
