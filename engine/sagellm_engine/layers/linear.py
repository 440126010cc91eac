"""Matrix products with constant weights in PyTorch, packed at load time: for where no kernels can be compiled.

float32 in, float32 out, whatever the weights are stored in. Weights of 16-bit models take half the memory traffic,
which is what decoding is limited by:

- An x86 CPU with AVX2 or AVX-512 keeps the weights in float16 and does the arithmetic in float32 (FBGEMM). A
  bfloat16 weight fits float16 exactly from 2^-17 up; smaller ones are rounded by at most 3e-8.
- Another CPU with bfloat16 instructions multiplies bfloat16 weights in bfloat16 and accumulates in float32
  (oneDNN).
- Any other CPU computes with float32 weights.

The order is for the sake of equal texts. An answer that goes on elsewhere computes its own tokens again as a
prompt, whose attention differs from decoding in the last bit; where inputs are rounded to bfloat16, that becomes
one in 256, and now and then another word.

Measured for all products of SmolLM2-135M, milliseconds. Two Zen 3 cores at 1, 8, 32 and 128 rows: FBGEMM 18, 28,
72, 233; oneDNN in float32, packed 28, 43, 83, 314; MKL in float32 42, 74, 125, 391; bfloat16 without instructions
for it 21, 130, 520. One core with AVX-512 and bfloat16 instructions at 1, 8, 32 and 512 rows: FBGEMM 14, 28, 95,
1084; oneDNN in bfloat16 22, 24, 56, 574.
"""

import platform
from typing import Protocol

import torch

_HALF_MAX = 65504.0


class Linear(Protocol):
    """x of shape (rows, in) → (rows, out), float32."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
    """The product with `weight` (out, in) stored at the precision of `dtype`, for this CPU."""
    weight = weight.to(dtype)
    bias = None if bias is None else bias.float()
    if dtype is not torch.float32:
        if _has_fbgemm() and float(weight.abs().max()) <= _HALF_MAX:
            return HalfLinear(weight, bias)
        if dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return PackedLinear(weight, bias)
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return PackedLinear(weight.float(), bias) if has_onednn else PlainLinear(weight, bias)


class PackedLinear:
    """oneDNN with weights in its own blocked layout, in the dtype of `weight`: float32 or bfloat16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = None if bias is None else bias.to(weight.dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), self._weight, self._bias, "none", [], "")
        return y.float()  # type: ignore[no-any-return]


class HalfLinear:
    """FBGEMM with float16 weights and float32 arithmetic."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)  # type: ignore[no-any-return]


class PlainLinear:
    """What works everywhere."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight.float().contiguous()
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self._weight, self._bias)


def _has_fbgemm() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.quantized.engine in ("x86", "fbgemm")
