"""The gated activation of the Llama family's feed-forward layer."""

import torch


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, of (rows, 2 · n) with the gates first; (rows, n), a new tensor."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)
