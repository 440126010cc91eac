"""RMSNorm (Zhang and Sennrich, 2019), fused with the residual sum before it."""

import torch
import triton
import triton.language as tl


@triton.jit
def _normalized(x, weight, eps, SIZE: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps) * weight


@triton.jit
def _add_rms_norm(
    y, residual, weight, post_weight, out, eps, stride_y, stride_residual, stride_out,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < SIZE
    x = tl.load(residual + row * stride_residual + at, mask=mask, other=0.0).to(tl.float32)
    if y is not None:
        added = tl.load(y + row * stride_y + at, mask=mask, other=0.0).to(tl.float32)
        if post_weight is not None:
            added = _normalized(added, tl.load(post_weight + at, mask=mask, other=0.0), eps, SIZE)
        x += added
        tl.store(residual + row * stride_residual + at, x.to(residual.dtype.element_ty), mask=mask)
    if out is not None:
        normed = _normalized(x, tl.load(weight + at, mask=mask, other=0.0), eps, SIZE)
        tl.store(out + row * stride_out + at, normed.to(out.dtype.element_ty), mask=mask)


def add_rms_norm(
    y: torch.Tensor | None,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    *,
    dtype: torch.dtype,
    post_weight: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """residual += y, in place; then the norm of the residual, a new tensor (rows, size) of `dtype`.

    `y` and `residual` are (rows, size). With `post_weight` it is norm(y) · post_weight that is added (Gemma 2).
    Without `y` nothing is added; without `weight` nothing is returned. Weights are (size,) float32; sums are in
    float32.
    """
    rows, size = residual.shape
    out = None if weight is None else torch.empty(rows, size, dtype=dtype, device=residual.device)
    block = triton.next_power_of_2(size)
    _add_rms_norm[(rows,)](
        y, residual, weight, post_weight, out, eps,
        0 if y is None else y.stride(0), residual.stride(0), 0 if out is None else out.stride(0),
        SIZE=size, BLOCK=block, num_warps=max(1, min(16, block // 512)),
    )  # fmt: skip
    return out


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def add_rms_norm_reference(
    y: torch.Tensor | None,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    *,
    dtype: torch.dtype,
    post_weight: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The same in plain PyTorch; `residual` is written to as well."""
    if y is not None:
        added = y.float() if post_weight is None else rms_norm_reference(y, post_weight, eps)
        total = residual.float() + added
        residual.copy_(total)
    else:
        total = residual.float()
    return None if weight is None else rms_norm_reference(total, weight, eps).to(dtype)
