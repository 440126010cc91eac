"""A decoder in PyTorch operations: what every other executor is held against, and what runs where none can."""

import logging
from collections.abc import Sequence

import torch

from sagellm_engine.layers import Linear, activate_and_mul, make_linear, rms_norm, rotate
from sagellm_engine.lora import Adapter
from sagellm_engine.models.decoder import Decoder, Experts, Layer, Mlp
from sagellm_engine.weights import GroupQuantized, Weight

from .adaptable import check_adaptable
from .executor import Scores
from .span import Span
from .torch_adapters import AdapterStep
from .torch_attention import TorchAttention, TorchStep

log = logging.getLogger(__name__)


class TorchPacker:
    """Weights in `dtype`, packed for this CPU; quantized ones are inflated to it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._said = False

    def product(self, parts: list[Weight], bias: torch.Tensor | None) -> Linear:
        """See `Packer`."""
        return make_linear(torch.cat([self._dense(part) for part in parts]), bias, self._dtype)

    def embedding(self, weight: Weight) -> Weight:
        """See `Packer`."""
        return weight if isinstance(weight, GroupQuantized) else weight.to(self._dtype, copy=True)

    def _dense(self, weight: Weight) -> torch.Tensor:
        if not isinstance(weight, GroupQuantized):
            return weight.to(self._dtype)
        if not self._said:
            log.warning("without compiled kernels quantized weights are inflated to %s", self._dtype)
            self._said = True
        return weight.dequantize().to(self._dtype)


class TorchExecutor:
    """Runs a decoder on CPU."""

    def __init__(self, decoder: Decoder[Linear, Weight], num_blocks: int, block_size: int) -> None:
        self._decoder = decoder
        self._adapters: Sequence[Adapter] = ()
        self._attention = TorchAttention([layer.attention for layer in decoder.layers], num_blocks, block_size)

    def forward(
        self, token_ids: list[int], positions: list[int], spans: list[Span], logits_rows: list[int]
    ) -> Scores:
        """See `Executor`."""
        decoder = self._decoder
        x = self._embed(torch.tensor(token_ids))
        places = torch.tensor(positions)
        angles = [table.at(places) for table in decoder.rotary]
        attend = self._attention.begin_step(spans)
        adapters = AdapterStep(self._adapters, spans)
        for index, layer in enumerate(decoder.layers):
            attended = self._attend(index, layer, x, angles, attend, adapters)
            x += attended if layer.attention_post_norm is None else self._norm(attended, layer.attention_post_norm)
            mixed = self._mix(index, layer.mlp, self._norm(x, layer.mlp_norm), adapters)
            x += mixed if layer.mlp_post_norm is None else self._norm(mixed, layer.mlp_post_norm)
        if not logits_rows:
            return Scores(torch.empty(0, 0), [])
        logits = decoder.head(self._norm(x[logits_rows], decoder.norm))
        if decoder.logit_softcap is not None:
            logits = logits.div_(decoder.logit_softcap).tanh_().mul_(decoder.logit_softcap)
        finite = torch.isfinite(logits.sum(-1))
        return Scores(logits, torch.where(finite, logits.argmax(-1), -1).tolist())

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """See `Executor`."""
        check_adaptable(self._decoder.layers, adapters)
        self._adapters = adapters

    def clear(self, blocks: list[int]) -> None:
        """See `Executor`."""
        self._attention.clear(blocks)

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        table = self._decoder.embedding
        rows = table.rows(token_ids) if isinstance(table, GroupQuantized) else table[token_ids].float()
        return rows.mul_(self._decoder.embedding_scale)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, self._decoder.eps)

    def _attend(
        self,
        index: int,
        layer: Layer[Linear],
        x: torch.Tensor,
        angles: list[tuple[torch.Tensor, torch.Tensor]],
        attend: TorchStep,
        adapters: AdapterStep,
    ) -> torch.Tensor:
        spec = layer.attention
        normed = self._norm(x, layer.attention_norm)
        qkv = layer.qkv(normed)
        adapters.add(index, "qkv", normed, qkv)
        heads = qkv.view(len(qkv), -1, spec.head_dim)
        queries, keys = heads[:, : spec.num_heads], heads[:, spec.num_heads :][:, : spec.num_kv_heads]
        for rotated, norm in ((queries, spec.q_norm), (keys, spec.k_norm)):
            if norm is not None:
                rotated.copy_(self._norm(rotated, norm))
            rotate(rotated, *angles[spec.rotary])
        attended = attend(index, qkv)
        out = layer.attention_out(attended)
        adapters.add(index, "attention_out", attended, out)
        return out

    def _mix(
        self, index: int, mlp: Mlp[Linear] | Experts[Linear], x: torch.Tensor, adapters: AdapterStep
    ) -> torch.Tensor:
        if isinstance(mlp, Experts):
            return self._mix_experts(mlp, x)
        gate_up = mlp.gate_up(x)
        adapters.add(index, "gate_up", x, gate_up)
        active = activate_and_mul(gate_up, mlp.activation)
        down = mlp.down(active)
        adapters.add(index, "down", active, down)
        return down

    def _mix_experts(self, mlp: Experts[Linear], x: torch.Tensor) -> torch.Tensor:
        weights, chosen = mlp.router(x).softmax(-1).topk(mlp.top_k)
        if mlp.normalize:
            weights /= weights.sum(-1, keepdim=True)
        mixed = torch.zeros_like(x)
        for index in sorted(set(chosen.flatten().tolist())):
            rows, places = (chosen == index).nonzero(as_tuple=True)
            mixed[rows] += _run(mlp.experts[index], x[rows]) * weights[rows, places].unsqueeze(1)
        return mixed


def _run(expert: Mlp[Linear], x: torch.Tensor) -> torch.Tensor:
    return expert.down(activate_and_mul(expert.gate_up(x), expert.activation))
