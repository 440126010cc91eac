"""The KV cache of all layers on the GPU, in the dtype of the activations or in fp8."""

import torch

from sagellm_engine.kernels.paged_attention_reference import PagedCache
from sagellm_engine.models.decoder import AttentionSpec


def cache_dtype(kv_cache_dtype: str, dtype: torch.dtype) -> torch.dtype:
    """What keys and values are stored in: `dtype`, or e4m3 for "fp8"."""
    return torch.float8_e4m3fn if kv_cache_dtype == "fp8" else dtype


class KvCache:
    """One tensor, (layers, blocks, 2, kv_heads, block_size, head_dim), keys before values."""

    def __init__(
        self,
        specs: list[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`specs` has one entry a layer; all agree in the numbers of heads and their size."""
        first = specs[0]
        shape = (len(specs), num_blocks, 2, first.num_kv_heads, block_size, first.head_dim)
        # Bytes, because not every operation knows fp8; they are all zero in every type's zero.
        self._bytes = torch.zeros(*shape[:-1], shape[-1] * dtype.itemsize, dtype=torch.uint8, device=device)
        cache = self._bytes.view(dtype)
        # e4m3 is a floating type with a range of 2^±9: keys and values lie within it as they are.
        scale = torch.ones(first.num_kv_heads, device=device) if dtype.itemsize == 1 else None
        self.layers = [PagedCache(layer[:, 0], layer[:, 1], scale, scale) for layer in cache]

    def clear(self, blocks: list[int]) -> None:
        """Overwrite the content of `blocks` with zeros."""
        self._bytes[:, torch.tensor(blocks, device=self._bytes.device)] = 0
