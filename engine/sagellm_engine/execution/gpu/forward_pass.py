"""A decoder in Triton kernels and cuBLAS products: token ids in, scores out, without a word from the host between.

The residual stream is float32; what products read and write is in the dtype of the weights.
"""

import dataclasses

import torch

from sagellm_engine.kernels.gated_activation import gated_activation
from sagellm_engine.kernels.paged_attention_reference import PagedCache
from sagellm_engine.kernels.paged_decode import paged_decode
from sagellm_engine.kernels.paged_prefill import paged_prefill
from sagellm_engine.kernels.rms_norm import add_rms_norm
from sagellm_engine.kernels.rotary_kv_write import rotary_kv_write
from sagellm_engine.models.decoder import AttentionSpec, Decoder, Experts, Layer

from .batch import Batch
from .expert_mixture import ExpertMixture
from .product import GpuProduct


class ForwardPass:
    """Runs a decoder on batches; caches are passed in, one for each layer."""

    def __init__(
        self,
        decoder: Decoder[GpuProduct, torch.Tensor],
        caches: list[PagedCache],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._layers = [_on_device(layer, device) for layer in decoder.layers]
        self._mixtures = {
            index: ExpertMixture(layer.mlp, dtype)
            for index, layer in enumerate(decoder.layers)
            if isinstance(layer.mlp, Experts)
        }
        self._caches = caches
        self._dtype = dtype
        self._norm = decoder.norm.to(device)
        self._angles = [(table.cos.to(device), table.sin.to(device)) for table in decoder.rotary]

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Scores (rows, vocabulary) of what follows the wanted rows, float32; keys and values go to the cache."""
        x = self._decoder.embedding[batch.token_ids].float()
        if self._decoder.embedding_scale != 1.0:
            x *= self._decoder.embedding_scale
        # What is still to be added to x, and the norm that it passes on its way: both done with the next norm.
        y: torch.Tensor | None = None
        post_norm: torch.Tensor | None = None
        for index, (layer, cache) in enumerate(zip(self._layers, self._caches, strict=True)):
            h = self._add_and_norm(y, x, layer.attention_norm, post_norm)
            y, post_norm = self._attend(layer, cache, h, batch), layer.attention_post_norm
            h = self._add_and_norm(y, x, layer.mlp_norm, post_norm)
            y, post_norm = self._mix(index, layer, h), layer.mlp_post_norm
        if batch.logits_rows is not None:
            x = x[batch.logits_rows]
            y = None if y is None else y[batch.logits_rows]
        if not len(x):
            return torch.empty(0, 0, device=x.device)
        scores = self._decoder.head.scores(self._add_and_norm(y, x, self._norm, post_norm))
        cap = self._decoder.logit_softcap
        return scores if cap is None else scores.div_(cap).tanh_().mul_(cap)

    def _add_and_norm(
        self, y: torch.Tensor | None, x: torch.Tensor, norm: torch.Tensor, post_norm: torch.Tensor | None
    ) -> torch.Tensor:
        normed = add_rms_norm(y, x, norm, self._decoder.eps, dtype=self._dtype, post_weight=post_norm)
        assert normed is not None, "there is a norm"
        return normed

    def _attend(self, layer: Layer[GpuProduct], cache: PagedCache, h: torch.Tensor, batch: Batch) -> torch.Tensor:
        spec = layer.attention
        qkv = layer.qkv(h)
        cosines, sines = self._angles[spec.rotary]
        rotary_kv_write(
            qkv,
            batch.positions,
            batch.slots,
            cosines,
            sines,
            cache,
            num_heads=spec.num_heads,
            query_norm=spec.q_norm,
            key_norm=spec.k_norm,
            eps=self._decoder.eps,
        )
        width = spec.num_heads * spec.head_dim
        query = qkv[:, :width].view(len(qkv), spec.num_heads, spec.head_dim)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        n = batch.num_decodes
        window, softcap = spec.window or 0, spec.softcap or 0.0
        if n:
            paged_decode(
                query[:n],
                cache,
                batch.tables,
                batch.table_starts[:n],
                batch.lengths[:n],
                batch.max_tokens,
                scale=spec.scale,
                window=window,
                softcap=softcap,
                out=out[:n],
            )
        if batch.longest_prompt:
            paged_prefill(
                query[n:],
                cache,
                batch.tables,
                batch.table_starts[n:],
                batch.prompt_starts,
                batch.lengths[n:],
                batch.longest_prompt,
                scale=spec.scale,
                window=window,
                softcap=softcap,
                out=out[n:],
            )
        return layer.attention_out(out.view(len(out), width))

    def _mix(self, index: int, layer: Layer[GpuProduct], h: torch.Tensor) -> torch.Tensor:
        if isinstance(layer.mlp, Experts):
            return self._mixtures[index](h)
        return layer.mlp.down(gated_activation(layer.mlp.gate_up(h), layer.mlp.activation))


def _on_device(layer: Layer[GpuProduct], device: torch.device) -> Layer[GpuProduct]:
    """The layer with its norms on the device; products are there already."""

    def move(norm: torch.Tensor | None) -> torch.Tensor | None:
        return None if norm is None else norm.to(device)

    spec: AttentionSpec = layer.attention
    return dataclasses.replace(
        layer,
        attention_norm=layer.attention_norm.to(device),
        mlp_norm=layer.mlp_norm.to(device),
        attention_post_norm=move(layer.attention_post_norm),
        mlp_post_norm=move(layer.mlp_post_norm),
        attention=dataclasses.replace(spec, q_norm=move(spec.q_norm), k_norm=move(spec.k_norm)),
    )
