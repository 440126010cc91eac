"""From a checkpoint's tensors to packed layers, one at a time so that little is in memory twice."""

from collections.abc import Iterable

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.layers import Linear, make_linear
from sagellm_engine.loader.expected_tensors import expected_shapes
from sagellm_engine.weights import GroupQuantized, Weight

_FUSED = {
    "self_attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}


class Weights:
    """The layers of a Llama, by name; the q, k and v products are one, and so are gate and up."""

    def __init__(self, config: ModelConfig, tensors: Iterable[tuple[str, Weight]], dtype: torch.dtype) -> None:
        """`tensors` have every tensor of the model, in its right shape; any order will do."""
        self._dtype = dtype
        self._tied = config.tie_word_embeddings
        self._norms: dict[str, torch.Tensor] = {}
        self._linears: dict[str, Linear] = {}
        shapes = expected_shapes(config)
        parts: dict[str, list[str]] = {}
        for name in shapes:
            parts.setdefault(_target(name), []).append(name)
        found: dict[str, torch.Tensor] = {}
        for name, tensor in tensors:
            if name not in shapes:
                continue  # such as rotary frequencies, which old checkpoints hold
            target = _target(name)
            found[name] = tensor.dequantize() if isinstance(tensor, GroupQuantized) else tensor
            if all(part in found for part in parts[target]):
                self._take(target, [found.pop(part) for part in parts[target]])

    @property
    def embedding(self) -> torch.Tensor:
        """(vocabulary, hidden_size), in the dtype of the weights."""
        return self._embedding

    def norm(self, name: str) -> torch.Tensor:
        """The scale of the norm `name`, float32."""
        return self._norms[name]

    def linear(self, name: str) -> Linear:
        """The product `name`; fused ones are `….self_attn.qkv` and `….mlp.gate_up`."""
        return self._linears[name]

    def _take(self, target: str, tensors: list[torch.Tensor]) -> None:
        if target == "model.embed_tokens":
            self._embedding = tensors[0].to(self._dtype, copy=True)
            if self._tied:
                self._linears["lm_head"] = make_linear(tensors[0], None, self._dtype)
        elif target.endswith("norm"):
            self._norms[target] = tensors[0].to(torch.float32, copy=True)
        else:
            weight = torch.cat([t.to(self._dtype) for t in tensors if t.dim() == 2])
            biases = [t.float() for t in tensors if t.dim() == 1]
            self._linears[target] = make_linear(weight, torch.cat(biases) if biases else None, self._dtype)


def _target(name: str) -> str:
    """The layer that tensor `name` becomes a part of."""
    product = name.rpartition(".")[0]
    for fused, sources in _FUSED.items():
        for source in sources:
            if product.endswith(source):
                return product.removesuffix(source) + fused
    return product
