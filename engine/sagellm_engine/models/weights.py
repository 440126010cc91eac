"""From a checkpoint's tensors to packed layers, one at a time so that little is in memory twice."""

from collections.abc import Iterable

import torch

from sagellm_schemas import ModelLoadError

from ..config import ModelConfig
from ..layers import Linear, make_linear

_FUSED = {
    "self_attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}
_EMBEDDING = "model.embed_tokens.weight"


class Weights:
    """The layers of a Llama, by name; the q, k and v products are one, and so are gate and up."""

    def __init__(
        self, config: ModelConfig, tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype
    ) -> None:
        """
        Raises:
            ModelLoadError: a tensor has another shape than the config says.
        """
        self._dtype = dtype
        self._norms: dict[str, torch.Tensor] = {}
        self._linears: dict[str, Linear] = {}
        self._embedding: torch.Tensor | None = None
        shapes = expected_shapes(config)
        parts: dict[str, list[str]] = {}
        for name in shapes:
            parts.setdefault(_target(name), []).append(name)
        self._missing = {target: set(names) for target, names in parts.items()}
        found: dict[str, torch.Tensor] = {}
        for name, tensor in tensors:
            if name not in shapes:
                continue  # such as rotary frequencies, which old checkpoints hold
            if tuple(tensor.shape) != shapes[name]:
                raise ModelLoadError(f"{name} has shape {tuple(tensor.shape)}; expected {shapes[name]}")
            target = _target(name)
            found[name] = tensor
            self._missing[target].discard(name)
            if not self._missing[target]:
                self._take(target, [found.pop(n) for n in parts[target]])
            if name == _EMBEDDING and config.tie_word_embeddings:
                self._linears["lm_head"] = make_linear(tensor, None, dtype)

    @property
    def embedding(self) -> torch.Tensor:
        """(vocabulary, hidden_size)."""
        self._check("model.embed_tokens")
        assert self._embedding is not None
        return self._embedding

    def norm(self, name: str) -> torch.Tensor:
        """The scale of the norm `name`, float32."""
        self._check(name)
        return self._norms[name]

    def linear(self, name: str) -> Linear:
        """The product `name`; fused ones are `….self_attn.qkv` and `….mlp.gate_up`."""
        self._check(name)
        return self._linears[name]

    def _check(self, target: str) -> None:
        if missing := self._missing.get(target):
            raise ModelLoadError(f"the checkpoint has no tensor {min(missing)}")

    def _take(self, target: str, tensors: list[torch.Tensor]) -> None:
        if target == "model.embed_tokens":
            self._embedding = tensors[0].to(self._dtype, copy=True)
        elif target.endswith("norm"):
            self._norms[target] = tensors[0].to(torch.float32, copy=True)
        else:
            weight = torch.cat([t.to(self._dtype) for t in tensors if t.dim() == 2])
            biases = [t.float() for t in tensors if t.dim() == 1]
            self._linears[target] = make_linear(weight, torch.cat(biases) if biases else None, self._dtype)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint that the model uses."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    products = {
        "self_attn.q_proj": (queries, hidden, config.attention_bias),
        "self_attn.k_proj": (keys, hidden, config.attention_bias),
        "self_attn.v_proj": (keys, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, queries, config.attention_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        for name, (rows, columns, bias) in products.items():
            shapes[f"{prefix}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}.{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    return shapes


def _target(name: str) -> str:
    """The layer that tensor `name` becomes a part of."""
    product = name.rpartition(".")[0]
    for fused, sources in _FUSED.items():
        for source in sources:
            if product.endswith(source):
                return product.removesuffix(source) + fused
    return product
