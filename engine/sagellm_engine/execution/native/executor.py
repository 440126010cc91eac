"""A decoder in compiled kernels: one call runs a whole step on all threads, with no Python between operations."""

import ctypes
from array import array
from collections.abc import Sequence

import torch

from sagellm_engine.execution.adaptable import check_adaptable
from sagellm_engine.execution.executor import Scores
from sagellm_engine.execution.span import Span
from sagellm_engine.lora import Adapter
from sagellm_engine.models.decoder import Decoder, Experts, Layer, Mlp

from . import structs
from .adapters import NativeAdapters
from .arena import Arena
from .packer import DENSE, NativeProduct

_PADDING = 32
_LANES = 16


class NativeExecutor:
    """Runs a decoder on CPU."""

    def __init__(
        self,
        library: ctypes.CDLL,
        decoder: Decoder[NativeProduct, NativeProduct],
        *,
        num_blocks: int,
        block_size: int,
        kv_dtype: torch.dtype,
        num_threads: int,
    ) -> None:
        """
        Raises:
            OSError: the system has no memory for the KV cache.
        """
        self._library = library
        self._decoder = decoder
        self._kept: list[object] = []
        self._vocabulary = decoder.head.struct.outs
        spec = decoder.layers[0].attention
        self._block_bytes = block_bytes(spec.num_kv_heads, spec.head_dim, block_size, kv_dtype)
        self._num_blocks = num_blocks
        self._arena = Arena()
        self._cache = self._arena.take(len(decoder.layers) * num_blocks * self._block_bytes)
        self._logits = torch.empty(0)
        self._best = array("i")
        layers = (structs.Layer * len(decoder.layers))(*map(self._layer, decoder.layers))
        tables = (structs.Rotary * len(decoder.rotary))(
            *(structs.Rotary(self._keep(t.cos), self._keep(t.sin), t.cos.shape[1]) for t in decoder.rotary)
        )
        self._model = structs.Model(
            hidden=decoder.embedding.struct.ins,
            vocabulary=self._vocabulary,
            num_layers=len(decoder.layers),
            kv_kind=DENSE[kv_dtype],
            block_size=block_size,
            num_blocks=num_blocks,
            eps=decoder.eps,
            embedding_scale=decoder.embedding_scale,
            logit_softcap=decoder.logit_softcap or 0.0,
            embedding=decoder.embedding.struct,
            head=decoder.head.struct,
            norm=self._padded(decoder.norm),
            layers=layers,
            rotary=tables,
            cache=ctypes.cast(self._cache, ctypes.POINTER(ctypes.c_uint8)),
        )
        self._team = library.sage_team(num_threads)
        self._native = library.sage_decoder(ctypes.byref(self._model), self._team)

    def __del__(self) -> None:
        if hasattr(self, "_native"):
            self._library.sage_end_decoder(self._native)
            self._library.sage_end_team(self._team)

    def forward(
        self, token_ids: list[int], positions: list[int], spans: list[Span], logits_rows: list[int]
    ) -> Scores:
        """See `Executor`."""
        blocks = array("i")
        places = array("i")
        adapters = array("i")
        for span in spans:
            adapters.extend([-1 if span.adapter is None else span.adapter] * span.num_tokens)
            places.extend((span.row, span.num_tokens, span.start, len(blocks)))
            blocks.extend(span.blocks)
        ids, at, rows = array("i", token_ids), array("i", positions), array("i", logits_rows)
        count = len(rows)
        if len(self._best) < count:
            self._best = array("i", bytes(4 * count))
            self._logits = torch.empty(count, self._vocabulary)
        step = structs.Step(
            len(ids),
            len(spans),
            count,
            *(numbers.buffer_info()[0] for numbers in (ids, at, blocks)),
            adapters.buffer_info()[0] if any(span.adapter is not None for span in spans) else None,
            *(numbers.buffer_info()[0] for numbers in (places, rows)),
            self._logits.data_ptr(),
            self._best.buffer_info()[0],
        )
        self._library.sage_forward(self._native, ctypes.byref(step))
        return Scores(self._logits[:count], self._best[:count].tolist())

    def adapt(self, adapters: Sequence[Adapter]) -> None:
        """See `Executor`."""
        check_adaptable(self._decoder.layers, adapters)
        self._adapters = NativeAdapters(adapters)
        self._library.sage_adapt(self._native, self._adapters.address, self._adapters.most_rank)

    def clear(self, blocks: list[int]) -> None:
        """See `Executor`."""
        for layer in range(len(self._decoder.layers)):
            for block in blocks:
                ctypes.memset(
                    self._cache + (layer * self._num_blocks + block) * self._block_bytes, 0, self._block_bytes
                )

    def _layer(self, layer: Layer[NativeProduct]) -> structs.Layer:
        spec, mlp = layer.attention, layer.mlp
        filled = structs.Layer(
            attention_norm=self._padded(layer.attention_norm),
            attention_post_norm=self._padded(layer.attention_post_norm),
            mlp_norm=self._padded(layer.mlp_norm),
            mlp_post_norm=self._padded(layer.mlp_post_norm),
            q_norm=self._padded(spec.q_norm),
            k_norm=self._padded(spec.k_norm),
            qkv=layer.qkv.struct,
            attention_out=layer.attention_out.struct,
            heads=spec.num_heads,
            kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            window=spec.window or 0,
            rotary=spec.rotary,
            scale=spec.scale,
            softcap=spec.softcap or 0.0,
        )
        if isinstance(mlp, Experts):
            self._fill_experts(filled, mlp)
        else:
            filled.gate_up, filled.down = mlp.gate_up.struct, mlp.down.struct
            filled.gelu = mlp.activation == "gelu_tanh"
        return filled

    def _fill_experts(self, filled: structs.Layer, mlp: Experts[NativeProduct]) -> None:
        def products(expert: Mlp[NativeProduct]) -> tuple[structs.Product, structs.Product]:
            return expert.gate_up.struct, expert.down.struct

        flat = [product for expert in mlp.experts for product in products(expert)]
        experts = (structs.Product * len(flat))(*flat)
        self._kept.append(experts)
        filled.experts = experts
        filled.router = mlp.router.struct
        filled.num_experts, filled.top_k, filled.normalize = len(mlp.experts), mlp.top_k, mlp.normalize
        filled.gelu = mlp.experts[0].activation == "gelu_tanh"

    def _padded(self, vector: torch.Tensor | None) -> int | None:
        """The address of a copy of `vector`, with zeros up to a multiple of 32."""
        if vector is None:
            return None
        return self._keep(torch.nn.functional.pad(vector.float(), (0, -len(vector) % _PADDING)))

    def _keep(self, tensor: torch.Tensor) -> int:
        tensor = tensor.float().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def block_bytes(num_kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype) -> int:
    """Memory that a block takes in one layer (kernels/cache.h): heads and tokens are padded to multiples of 16."""
    tokens, numbers = -(-block_size // _LANES) * _LANES, -(-head_dim // _LANES) * _LANES
    return 2 * num_kv_heads * tokens * numbers * dtype.itemsize
