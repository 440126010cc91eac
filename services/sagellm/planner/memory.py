"""The memory model: what one GPU must hold, in bytes. The fullest GPU of a layout counts."""

import math

import msgspec

from .layout import Layout
from .model_shape import ModelShape
from .precision import KV_BYTES, precision
from .workload import Workload

GIB = 1 << 30
UTILIZATION = 0.9
"""Share of a GPU that an engine takes; vLLM's default of gpu_memory_utilization."""
RUNTIME_BYTES = int(1.5 * GIB)
"""CUDA context, libraries, workspaces and CUDA graphs."""
COLLECTIVE_BYTES = GIB // 2
"""Buffers of NCCL and of the custom all-reduce, where GPUs share a model."""
COMPUTE_BYTES = 2
"""Activations are 16-bit, whatever the weights are."""
LOGIT_BYTES = 4


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on the fullest GPU."""

    usable_bytes: int
    weight_bytes: int
    activation_bytes: int
    overhead_bytes: int
    kv_bytes_per_token: float

    @property
    def kv_bytes(self) -> int:
        """What is left for the KV cache; negative where not even the rest fits."""
        return self.usable_bytes - self.weight_bytes - self.activation_bytes - self.overhead_bytes

    @property
    def kv_tokens(self) -> int:
        """How many tokens one KV cache holds: that of a TP group, over all its pipeline stages."""
        return max(0, int(self.kv_bytes / self.kv_bytes_per_token))


def memory(
    shape: ModelShape, layout: Layout, workload: Workload, gpu_memory_gib: float, dtype: str, kv_dtype: str
) -> Memory:
    """What `layout` puts on its fullest GPU.

    Raises:
        InvalidRequest: `dtype` is unknown.
    """
    stage_layers = math.ceil(shape.layers / layout.pp)
    alone = layout.tp * layout.pp * layout.ep == 1
    return Memory(
        usable_bytes=int(gpu_memory_gib * GIB * UTILIZATION),
        weight_bytes=math.ceil(weights_per_gpu(shape, layout) * precision(dtype).weight_bytes),
        activation_bytes=_activation_bytes(shape, layout, workload),
        overhead_bytes=RUNTIME_BYTES + (0 if alone else COLLECTIVE_BYTES),
        kv_bytes_per_token=stage_layers * shape.kv_elements_per_token(layout.tp) * KV_BYTES[kv_dtype],
    )


def weights_per_gpu(shape: ModelShape, layout: Layout) -> float:
    """Parameters on the fullest GPU: of the first stage, with the embedding, or the last one, with the LM head.

    Experts are divided among all GPUs of the replica's stage, everything else among its TP group.
    """
    share = math.ceil(shape.layers / layout.pp) / shape.layers
    ends = 1 if layout.pp > 1 or shape.tied_embeddings else 2
    common = shape.common_params * share + shape.embedding_params * ends
    return common / layout.tp + shape.routed_params * share / (layout.tp * layout.ep)


def _activation_bytes(shape: ModelShape, layout: Layout, workload: Workload) -> int:
    """The peak of one step: residual stream, its copy and its norm, the widest intermediate; and the logits.

    The widest is the gate and up projection of an MLP or the projections of attention, split over the TP group. A
    token's copies for its experts count as one row each.
    """
    experts = shape.experts
    mlp = shape.intermediate_size * (2 if shape.gated else 1)
    if experts is not None:
        mlp = max(mlp, experts.per_token * (2 * experts.intermediate_size + shape.hidden_size))
    attention = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    row = 3 * shape.hidden_size + max(mlp, attention) / layout.tp
    logits = workload.max_seqs * shape.vocab_size / layout.tp * LOGIT_BYTES
    return math.ceil(workload.step_tokens * row * COMPUTE_BYTES + logits)
