"""The gated activations of feed-forward layers."""

import torch
import torch.nn.functional as F


def activate_and_mul(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """activation(gate) · up, of (rows, 2 · n) with the gates first; (rows, n), a new tensor.

    `activation` is "silu", or "gelu_tanh" for the GELU with the tanh approximation.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    active = F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")
    return active.mul_(up)
