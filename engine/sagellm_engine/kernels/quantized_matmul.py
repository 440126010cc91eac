"""x · Wᵀ with W in 4 or 8 bits, dequantized on the way to the tensor cores.

weight = scale · value + minimum, and values up to 255 are exact in bfloat16. So for few rows the values
themselves are multiplied, group by group, and it is the products that are scaled (and the sums of x, for the
minimums): nothing is rounded, and the work per weight is a shift and a conversion. The groups are shared out
among programs (split-K), whose parts a second kernel sums in order. For many rows each weight is scaled once,
before the product.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .launch_table import Config, launch_config
from .operands import dot_type
from .packed_weight import PackedWeight, unpack


@triton.jit
def _multiply_add(acc, x, values, scale, minimum, SCALE_AFTER: tl.constexpr, DOT_TYPE: tl.constexpr):
    """acc + x · weights for one run of inputs: x (rows, inputs), values (inputs, outputs)."""
    if SCALE_AFTER:
        product = tl.dot(x, values.to(tl.float32).to(DOT_TYPE), input_precision="ieee")
        return acc + product * scale[None, :] + tl.sum(x.to(tl.float32), 1)[:, None] * minimum[None, :]
    weights = values.to(tl.float32) * scale[None, :] + minimum[None, :]
    return tl.dot(x, weights.to(DOT_TYPE), acc, input_precision="ieee")


@triton.jit
def _quantized_matmul(
    x, values, scales, minimums, bias, out, partial, rows, stride_x, stride_out,
    OUTPUTS: tl.constexpr, GROUPS: tl.constexpr, GROUP_SIZE: tl.constexpr, BITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, UNROLL: tl.constexpr, SPLIT_K: tl.constexpr,
    SCALE_AFTER: tl.constexpr, DOT_TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M rows, BLOCK_N outputs, one share of the groups."""
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    row_mask, out_mask = m < rows, n < OUTPUTS
    BYTES: tl.constexpr = GROUP_SIZE * BITS // 8
    byte = tl.arange(0, BYTES)
    m64 = m.to(tl.int64)
    x_at = x + m64[:, None] * stride_x + byte[None, :]
    SHARE: tl.constexpr = (GROUPS + SPLIT_K * UNROLL - 1) // (SPLIT_K * UNROLL) * UNROLL
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(split * SHARE, tl.minimum(split * SHARE + SHARE, GROUPS), UNROLL):
        for step in tl.static_range(UNROLL):
            group = tl.cast(start + step, tl.int64)
            mask_n = n < tl.where(group < GROUPS, OUTPUTS, 0)
            mask_m = m < tl.where(group < GROUPS, rows, 0)
            at = group * OUTPUTS + n
            packed = tl.load(values + at[None, :] * BYTES + byte[:, None], mask=mask_n[None, :], other=0)
            scale = tl.load(scales + at, mask=mask_n, other=0.0).to(tl.float32)
            minimum = tl.load(minimums + at, mask=mask_n, other=0.0).to(tl.float32)
            x_low = tl.load(x_at + group * GROUP_SIZE, mask=mask_m[:, None], other=0.0).to(DOT_TYPE)
            if BITS == 4:
                x_high = tl.load(x_at + group * GROUP_SIZE + BYTES, mask=mask_m[:, None], other=0.0).to(DOT_TYPE)
                acc = _multiply_add(acc, x_low, packed & 15, scale, minimum, SCALE_AFTER, DOT_TYPE)
                acc = _multiply_add(acc, x_high, packed >> 4, scale, minimum, SCALE_AFTER, DOT_TYPE)
            else:
                acc = _multiply_add(acc, x_low, packed, scale, minimum, SCALE_AFTER, DOT_TYPE)
    mask = row_mask[:, None] & out_mask[None, :]
    if SPLIT_K == 1:
        if bias is not None:
            acc += tl.load(bias + n, mask=out_mask, other=0.0)[None, :]
        tl.store(out + m64[:, None] * stride_out + n[None, :], acc.to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(partial + (split * rows + m64[:, None]) * OUTPUTS + n[None, :], acc, mask=mask)


@triton.jit
def _sum_splits(
    partial, bias, out, rows, stride_out, OUTPUTS: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr
):
    """One program: BLOCK outputs of one row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < OUTPUTS
    acc = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        acc += tl.load(partial + (split * rows + row) * OUTPUTS + n, mask=mask, other=0.0)
    if bias is not None:
        acc += tl.load(bias + n, mask=mask, other=0.0)
    tl.store(out + row * stride_out + n, acc.to(out.dtype.element_ty), mask=mask)


def quantized_matmul(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """x (rows, in) times the weight, plus `bias` (out) float32; (rows, out) in the dtype of `x`, or into `out`."""
    rows = len(x)
    outputs, inputs = weight.shape
    if out is None:
        out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    config = config or launch_config("quantized_matmul", shape_classes(rows, weight), x.device)
    split_k = config["SPLIT_K"]
    partial = torch.empty(split_k if split_k > 1 else 0, rows, outputs, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(outputs, config["BLOCK_N"]), triton.cdiv(rows, config["BLOCK_M"]), split_k)
    _quantized_matmul[grid](
        x, weight.values, weight.scales, weight.minimums, bias, out, partial, rows, x.stride(0), out.stride(0),
        OUTPUTS=outputs, GROUPS=inputs // weight.group_size, GROUP_SIZE=weight.group_size, BITS=weight.bits,
        BLOCK_M=config["BLOCK_M"], BLOCK_N=config["BLOCK_N"], UNROLL=config["UNROLL"], SPLIT_K=split_k,
        SCALE_AFTER=config["BLOCK_M"] <= 32, DOT_TYPE=dot_type(x.dtype),
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    if split_k > 1:
        block = min(512, triton.next_power_of_2(outputs))
        _sum_splits[rows, triton.cdiv(outputs, block)](
            partial, bias, out, rows, out.stride(0), OUTPUTS=outputs, SPLIT_K=split_k, BLOCK=block, num_warps=4
        )
    return out


def shape_classes(rows: int, weight: PackedWeight) -> tuple[str, ...]:
    """What the table distinguishes: how many rows (decoding or a prompt), the weight's form, and its shape."""
    size = next((f"m{limit}" for limit in (16, 32, 64) if rows <= limit), "m-many")
    outputs, inputs = weight.shape
    form = f"{size}-int{weight.bits}-g{weight.group_size}"
    return f"{form}-n{outputs}-k{inputs}", form, size


def quantized_matmul_reference(
    x: torch.Tensor, weight: PackedWeight, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The same in plain PyTorch, in float32."""
    return F.linear(x.float(), unpack(weight), bias).to(x.dtype)
