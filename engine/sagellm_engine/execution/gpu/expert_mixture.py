"""A mixture of experts on the GPU: which expert a row goes to is decided and used there, not known on the host."""

import torch

from sagellm_engine.kernels.gated_activation import gated_activation
from sagellm_engine.kernels.grouped_matmul import ExpertOrder, ExpertWeights, grouped_matmul
from sagellm_engine.kernels.packed_weight import PackedWeight, unpack
from sagellm_engine.models.decoder import Experts

from .product import GpuProduct


class ExpertMixture:
    """x (rows, hidden) → (rows, hidden). Quantized experts are inflated; biases they have none."""

    def __init__(self, experts: Experts[GpuProduct], dtype: torch.dtype) -> None:
        self._router, self._top_k, self._normalize = experts.router, experts.top_k, experts.normalize
        self._activation = experts.experts[0].activation
        self._gate_up = ExpertWeights([_dense(expert.gate_up, dtype) for expert in experts.experts])
        self._down = ExpertWeights([_dense(expert.down, dtype) for expert in experts.experts])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shares, chosen = self._router.scores(x).softmax(-1).topk(self._top_k)
        if self._normalize:
            shares = shares / shares.sum(-1, keepdim=True)
        order = ExpertOrder.of(chosen, self._gate_up.shape[0])
        inner = gated_activation(grouped_matmul(x, self._gate_up, order), self._activation)
        outer = grouped_matmul(inner, self._down, order, shares=shares.flatten())
        return outer.view(len(x), self._top_k, -1).float().sum(1).to(x.dtype)


def _dense(product: GpuProduct, dtype: torch.dtype) -> torch.Tensor:
    parts = [unpack(part).to(dtype) if isinstance(part, PackedWeight) else part for part in product.parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
