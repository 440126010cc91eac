"""x · Wᵀ where every row has its own expert's W: the products of a mixture of experts in one launch.

Rows are visited in the order of their experts, a tile of rows belongs to one expert, and which expert that is
each program finds in the experts' row counts: so nothing is sorted into place, padded, or known on the host.
(Grouped products as in MegaBlocks, Gale et al., 2022.)
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .launch_table import Config, launch_config
from .operands import dot_type, element_type


@dataclass(frozen=True, slots=True)
class ExpertOrder:
    """Assignments of rows to experts, ordered by expert.

    Assignment a is choice a % top_k of row a // top_k. Those of expert e are `order[starts[e]]` …
    `order[starts[e + 1] - 1]`; both are int32.
    """

    order: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, chosen: torch.Tensor, num_experts: int) -> "ExpertOrder":
        """Of `chosen` (rows, top_k), each row's experts; without waiting for the device."""
        ordered, order = chosen.flatten().sort(stable=True)
        starts = torch.searchsorted(ordered, torch.arange(num_experts + 1, device=chosen.device))
        return cls(order.int(), starts.int())


class ExpertWeights:
    """The weights of all experts, each (out, in) on one device, where they are: a kernel gets their addresses."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        """All are of one shape and type."""
        self.weights = [weight.contiguous() for weight in weights]
        first = self.weights[0]
        self.shape = (len(weights), *first.shape)
        self.dtype = first.dtype
        self.addresses = torch.tensor([weight.data_ptr() for weight in self.weights], device=first.device)


@triton.jit
def _grouped_matmul(
    x, addresses, order, starts, shares, out, stride_x, stride_out,
    EXPERTS: tl.constexpr, BLOCK_E: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    ROWS_SHARED_BY: tl.constexpr, WEIGHT_TYPE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DOT_TYPE: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M assignments of one expert, BLOCK_N outputs."""
    tile = tl.program_id(1)
    e = tl.arange(0, BLOCK_E)
    first = tl.load(starts + e, mask=e < EXPERTS, other=0)
    count = tl.load(starts + e + 1, mask=e < EXPERTS, other=0) - first
    tiles = (count + BLOCK_M - 1) // BLOCK_M
    tiles_end = tl.cumsum(tiles, 0)
    expert = tl.sum((tiles_end <= tile).to(tl.int32), 0)
    if expert >= EXPERTS:
        return
    mine = e == expert
    begin = tl.sum(tl.where(mine, first + (tile - tiles_end + tiles) * BLOCK_M, 0), 0)
    end = tl.sum(tl.where(mine, first + count, 0), 0)

    m = begin + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask, out_mask = m < end, n < OUTPUTS
    assignment = tl.load(order + m, mask=row_mask, other=0).to(tl.int64)
    x_at = x + (assignment // ROWS_SHARED_BY)[:, None] * stride_x
    weight = tl.multiple_of(tl.load(addresses + expert).to(tl.pointer_type(WEIGHT_TYPE)), 16)
    weight_at = weight + n.to(tl.int64)[None, :] * INPUTS
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, INPUTS, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x_tile = tl.load(x_at + k[None, :], mask=row_mask[:, None] & (k < INPUTS)[None, :], other=0.0)
        w_tile = tl.load(weight_at + k[:, None], mask=out_mask[None, :] & (k < INPUTS)[:, None], other=0.0)
        acc = tl.dot(x_tile.to(DOT_TYPE), w_tile.to(DOT_TYPE), acc, input_precision="ieee")
    if shares is not None:
        acc = acc * tl.load(shares + assignment, mask=row_mask, other=0.0)[:, None]
    out_at = out + assignment[:, None] * stride_out + n[None, :]
    tl.store(out_at, acc.to(out.dtype.element_ty), mask=row_mask[:, None] & out_mask[None, :])


def grouped_matmul(
    x: torch.Tensor,
    weights: ExpertWeights,
    experts: ExpertOrder,
    *,
    shares: torch.Tensor | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """The product of every assignment with its expert's weight; (assignments, out) in the dtype of `x`.

    `x` is (assignments, in), or (rows, in) with a row shared by its top_k
    assignments. `shares` (assignments) float32 are what the products are multiplied by.
    """
    num_experts, outputs, inputs = weights.shape
    assignments = len(experts.order)
    out = torch.empty(assignments, outputs, dtype=x.dtype, device=x.device)
    config = config or launch_config("grouped_matmul", shape_classes(assignments, num_experts), x.device)
    block_m = config["BLOCK_M"]
    # Every expert that has rows may have one tile that is not full.
    tiles = assignments // block_m + min(num_experts, assignments)
    _grouped_matmul[triton.cdiv(outputs, config["BLOCK_N"]), tiles](
        x, weights.addresses, experts.order, experts.starts, shares, out, x.stride(0), out.stride(0),
        EXPERTS=num_experts, BLOCK_E=triton.next_power_of_2(num_experts), OUTPUTS=outputs, INPUTS=inputs,
        ROWS_SHARED_BY=assignments // len(x), WEIGHT_TYPE=element_type(weights.dtype), BLOCK_M=block_m,
        BLOCK_N=config["BLOCK_N"], BLOCK_K=config["BLOCK_K"], DOT_TYPE=dot_type(x.dtype),
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return out


def shape_classes(assignments: int, num_experts: int) -> tuple[str, ...]:
    """What the table distinguishes: how many rows an expert gets on average."""
    return ("few" if assignments <= 32 * num_experts else "many",)


def grouped_matmul_reference(
    x: torch.Tensor,
    weights: ExpertWeights,
    experts: ExpertOrder,
    *,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same in plain PyTorch, expert by expert, in float32."""
    order, starts = experts.order.long(), experts.starts.tolist()
    out = torch.empty(len(order), weights.shape[1], dtype=x.dtype, device=x.device)
    for expert, weight in enumerate(weights.weights):
        mine = order[starts[expert] : starts[expert + 1]]
        products = x[mine // (len(order) // len(x))].float() @ weight.float().T
        out[mine] = (products if shares is None else products * shares[mine].unsqueeze(1)).to(x.dtype)
    return out
