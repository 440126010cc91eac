"""From a checkpoint's tensors to products, one at a time so that little is in memory twice."""

from collections.abc import Iterable
from typing import Generic

import torch

from sagellm_engine.config import ModelConfig
from sagellm_engine.execution.executor import Packer
from sagellm_engine.loader.expected_tensors import expected_shapes
from sagellm_engine.weights import GroupQuantized, Weight

from .decoder import E, P

_PRODUCTS = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "qkv_proj": "qkv",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "gate_up_proj": "gate_up",
}
"""Projections that share their inputs are one product; some checkpoints have them as one tensor already."""


class Weights(Generic[P, E]):
    """The weights of a model, by name; the q, k and v products are one, and so are gate and up."""

    def __init__(self, config: ModelConfig, tensors: Iterable[tuple[str, Weight]], packer: Packer[P, E]) -> None:
        """`tensors` have every tensor of the model, in its right shape; any order will do."""
        self._packer = packer
        self._tied = config.tie_word_embeddings
        self._norm_offset = config.norm_offset
        self._norms: dict[str, torch.Tensor] = {}
        self._products: dict[str, P] = {}
        shapes = expected_shapes(config)
        parts: dict[str, list[str]] = {}
        for name in shapes:
            parts.setdefault(_target(name), []).append(name)
        found: dict[str, Weight] = {}
        for name, tensor in tensors:
            if name not in shapes:
                continue  # such as rotary frequencies, which old checkpoints hold
            target = _target(name)
            found[name] = tensor
            if all(part in found for part in parts[target]):
                self._take(target, [found.pop(part) for part in parts[target]])

    @property
    def embedding(self) -> E:
        """(vocabulary, hidden_size), as the executor looks it up."""
        return self._embedding

    def norm(self, name: str) -> torch.Tensor:
        """The scale of the norm `name`, float32, with the family's offset."""
        return self._norms[name]

    def product(self, name: str) -> P:
        """The product `name`; joint ones end in `.qkv` and `.gate_up`."""
        return self._products[name]

    def _take(self, target: str, tensors: list[Weight]) -> None:
        if target == "model.embed_tokens":
            self._embedding = self._packer.embedding(tensors[0])
            if self._tied:
                self._products["lm_head"] = self._packer.product(tensors, None)
        elif target.endswith("norm"):
            assert isinstance(tensors[0], torch.Tensor), "a norm is never quantized"
            self._norms[target] = tensors[0].to(torch.float32, copy=True) + self._norm_offset
        else:
            vectors = [t for t in tensors if isinstance(t, torch.Tensor) and t.dim() == 1]
            weights = [t for t in tensors if isinstance(t, GroupQuantized) or t.dim() == 2]
            bias = torch.cat([vector.float() for vector in vectors]) if vectors else None
            if target.endswith(".gate_up") and len(weights) == 1:
                weights = _halves(weights[0])
            self._products[target] = self._packer.product(weights, bias)


def _halves(weight: Weight) -> list[Weight]:
    """Gates and ups of a tensor that has both: two parts, which an executor may compute side by side."""
    return list(weight.halves() if isinstance(weight, GroupQuantized) else weight.chunk(2))


def _target(name: str) -> str:
    """The layer that tensor `name` becomes a part of."""
    module, _, projection = name.rpartition(".")[0].rpartition(".")
    product = _PRODUCTS.get(projection, projection)
    return f"{module}.{product}" if module else product
