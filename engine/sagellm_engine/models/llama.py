"""Llama and what computes like it (Mistral without a sliding window, SmolLM2)."""

from dataclasses import dataclass

import torch

from sagellm_engine.attention import StepAttention
from sagellm_engine.config import ModelConfig
from sagellm_engine.layers import Linear, RotaryTable, rms_norm, rotate, silu_and_mul

from .weights import Weights


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor
    qkv: Linear
    attention_out: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """Token ids and positions in, logits out; attention and its cache are passed in."""

    def __init__(self, config: ModelConfig, weights: Weights, max_model_len: int) -> None:
        """
        Raises:
            ModelLoadError: the model scales its positions in a way that is not known here.
        """
        self._eps = config.rms_norm_eps
        self._rotated_heads = config.num_heads + config.num_kv_heads
        self._head_dim = config.head_dim
        self._rotary = RotaryTable(config, max_model_len)
        self._embedding = weights.embedding
        self._layers = [
            _Layer(
                attention_norm=weights.norm(f"model.layers.{i}.input_layernorm"),
                qkv=weights.linear(f"model.layers.{i}.self_attn.qkv"),
                attention_out=weights.linear(f"model.layers.{i}.self_attn.o_proj"),
                mlp_norm=weights.norm(f"model.layers.{i}.post_attention_layernorm"),
                gate_up=weights.linear(f"model.layers.{i}.mlp.gate_up"),
                down=weights.linear(f"model.layers.{i}.mlp.down_proj"),
            )
            for i in range(config.num_layers)
        ]
        self._norm = weights.norm("model.norm")
        self._head = weights.linear("lm_head")

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor, attend: StepAttention) -> torch.Tensor:
        """Hidden states (rows, hidden_size) of a step's tokens; their keys and values go to the cache."""
        x = self._embedding[token_ids].float()
        cos, sin = self._rotary.at(positions)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(rms_norm(x, layer.attention_norm, self._eps))
            heads = qkv.view(len(qkv), -1, self._head_dim)
            rotate(heads[:, : self._rotated_heads], cos, sin)
            x += layer.attention_out(attend(index, qkv))
            x += layer.down(silu_and_mul(layer.gate_up(rms_norm(x, layer.mlp_norm, self._eps))))
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) of what follows each of `hidden`."""
        return self._head(rms_norm(hidden, self._norm, self._eps))
