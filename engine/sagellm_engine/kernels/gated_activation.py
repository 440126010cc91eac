"""The gated activations of feed-forward layers: SwiGLU, and GeGLU with the tanh form of GELU (Shazeer, 2020)."""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

ACTIVATIONS = ("silu", "gelu_tanh")


@triton.jit
def _gated_activation(
    gate_up, out, stride_gate_up, stride_out, SIZE: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: BLOCK values of one row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < SIZE
    gate = tl.load(gate_up + row * stride_gate_up + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride_gate_up + SIZE + at, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        # (1 + tanh(z)) / 2 is the sigmoid of 2z; 2 · sqrt(2 / pi) is 1.5957691…
        sharpened = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    else:
        sharpened = gate
    result = gate / (1.0 + tl.exp(-sharpened)) * up
    tl.store(out + row * stride_out + at, result.to(out.dtype.element_ty), mask=mask)


def gated_activation(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """activation(gate) · up of (rows, 2 · size) with the gates first; (rows, size), a new tensor.

    `activation` is one of ACTIVATIONS.
    """
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(size))
    _gated_activation[rows, triton.cdiv(size, block)](
        gate_up, out, gate_up.stride(0), out.stride(0),
        SIZE=size, GELU=activation == "gelu_tanh", BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out


def gated_activation_reference(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """The same in plain PyTorch, computed in float32."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    gate = F.gelu(gate, approximate="tanh") if activation == "gelu_tanh" else F.silu(gate)
    return (gate * up).to(gate_up.dtype)
