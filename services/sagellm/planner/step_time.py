"""The time model: a roofline for one step, with collectives.

Each layer takes the longer of its arithmetic and its memory traffic (Williams et al., "Roofline", CACM 2009), plus
a fixed overhead, plus the collectives of its parallelism, which are not overlapped.
"""

import math

import msgspec

from .gpus import Gpu
from .layout import Layout
from .memory import COMPUTE_BYTES
from .model_shape import ModelShape
from .precision import KV_BYTES, precision

COMPUTE_EFFICIENCY = 0.55
"""Share of the peak that products of large matrices reach."""
MEMORY_EFFICIENCY = 0.8
"""Share of the peak memory bandwidth that reading weights and KV reaches."""
LINK_EFFICIENCY = 0.8
LAYER_OVERHEAD_S = 75e-6
"""Launches, norms and other small operations of one layer, whatever the number of tokens.

These three fit the profile of Llama-3.1-8B on an H100 (see docs/planner.md) within 12% at its ends."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of one TP group computes: `tokens` new ones of `sequences` sequences.

    `attended_tokens` are the KV entries that attention reads, `pairs` the query-key pairs that it multiplies.
    """

    tokens: float
    sequences: float
    attended_tokens: float
    pairs: float


def decode_step(sequences: float, context_tokens: float) -> Step:
    """One token for each of `sequences`."""
    read = sequences * context_tokens
    return Step(tokens=sequences, sequences=sequences, attended_tokens=read, pairs=read)


def prefill_step(prompt_tokens: int) -> Step:
    """A whole prompt; a token attends to those before it, half of them on average."""
    pairs = prompt_tokens * (prompt_tokens + 1) / 2
    return Step(tokens=prompt_tokens, sequences=1, attended_tokens=prompt_tokens, pairs=pairs)


class StepTimes:
    """Durations of steps of one model in one layout on one kind of GPU."""

    def __init__(self, shape: ModelShape, layout: Layout, gpu: Gpu, dtype: str, kv_dtype: str) -> None:
        self._shape = shape
        self._layout = layout
        self._gpu = gpu
        number = precision(dtype)
        self._weight_bytes = number.weight_bytes
        self._kv_bytes = KV_BYTES[kv_dtype]
        self._flops = (gpu.fp8_tflops if number.fp8 else gpu.bf16_tflops) * 1e12 * COMPUTE_EFFICIENCY
        self._attention_flops = gpu.bf16_tflops * 1e12 * COMPUTE_EFFICIENCY
        self._bytes_per_s = gpu.memory_gb_per_s * 1e9 * MEMORY_EFFICIENCY

    def stage_s(self, step: Step) -> float:
        """Seconds that the slowest pipeline stage takes for `step`, with handing it on."""
        shape, layout = self._shape, self._layout
        share = math.ceil(shape.layers / layout.pp) / shape.layers
        layers = shape.layers * share
        return (
            self._products_s(step, share)
            + self._attention_s(step, layers)
            + self._lm_head_s(step)
            + layers * LAYER_OVERHEAD_S
            + layers * self._all_reduces_s(step)
            + self._all_to_all_s(step, share)
            + self._hop_s(step)
        )

    def pass_s(self, step: Step) -> float:
        """Seconds until `step` has passed all stages."""
        return self.stage_s(step) * self._layout.pp

    def _products_s(self, step: Step, share: float) -> float:
        """The matrices of all layers. Of the routed experts only those that a token visits are read."""
        shape, layout = self._shape, self._layout
        common = shape.common_params * share / layout.tp
        visited = read = 0.0
        if shape.experts is not None:
            e = shape.experts
            local_experts = shape.expert_params * e.layers * share / layout.tp
            visited = local_experts * e.per_token
            # All `ep` groups send their tokens to the experts, and each holds 1/ep of them.
            missed = (1 - e.per_token / e.count) ** (step.tokens * layout.ep)
            read = local_experts * e.count / layout.ep * (1 - missed)
        compute_s = 2 * step.tokens * (common + visited) / self._flops
        return max(compute_s, (common + read) * self._weight_bytes / self._bytes_per_s)

    def _attention_s(self, step: Step, layers: float) -> float:
        shape, tp = self._shape, self._layout.tp
        width = shape.latent.kv_rank + shape.latent.rope_dim if shape.latent else shape.head_dim
        flop = 4 * step.pairs * width * shape.heads / tp * layers
        read = step.attended_tokens * shape.kv_elements_per_token(tp) * self._kv_bytes * layers
        return max(flop / self._attention_flops, read / self._bytes_per_s)

    def _lm_head_s(self, step: Step) -> float:
        """Only the last token of each sequence needs logits."""
        params = self._shape.embedding_params / self._layout.tp
        compute_s = 2 * step.sequences * params / self._flops
        return max(compute_s, params * self._weight_bytes / self._bytes_per_s)

    def _all_reduces_s(self, step: Step) -> float:
        """Two of them in a layer, by the ring: 2(n-1)/n of the hidden states over each link (arXiv 1909.08053)."""
        n = self._layout.tp
        if n == 1:
            return 0.0
        size = step.tokens * self._shape.hidden_size * COMPUTE_BYTES
        bytes_per_s, latency_s = self._link(n)
        return 2 * (2 * (n - 1) / n * size / bytes_per_s + latency_s)

    def _all_to_all_s(self, step: Step, share: float) -> float:
        """With EP: tokens to their experts, and back."""
        shape, n = self._shape, self._layout.ep * self._layout.tp
        if shape.experts is None or self._layout.ep == 1:
            return 0.0
        size = step.tokens / self._layout.tp * shape.experts.per_token * shape.hidden_size * COMPUTE_BYTES
        bytes_per_s, latency_s = self._link(n)
        return shape.experts.layers * share * 2 * ((n - 1) / n * size / bytes_per_s + latency_s)

    def _hop_s(self, step: Step) -> float:
        """With PP: the hidden states to the next stage."""
        layout = self._layout
        if layout.pp == 1:
            return 0.0
        bytes_per_s, latency_s = self._link(layout.tp * layout.pp)
        return step.tokens * self._shape.hidden_size * COMPUTE_BYTES / layout.tp / bytes_per_s + latency_s

    def _link(self, gpus: int) -> tuple[float, float]:
        """Bytes per second and latency of a collective among `gpus`: over the network beyond one machine."""
        gpu = self._gpu
        if gpus <= gpu.per_node:
            return gpu.link_gb_per_s * 1e9 * LINK_EFFICIENCY, gpu.link_latency_us * 1e-6
        return gpu.network_gb_per_s * 1e9 * LINK_EFFICIENCY, gpu.network_latency_us * 1e-6
