"""Compile kernels for a GPU that is not there: launches on meta tensors become builds for an H100.

A program of its own, because Triton's interpreter, which the tests choose, is chosen for a whole process.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile  # noqa: A004
from triton.runtime.jit import JITFunction, mangle_type

H100 = GPUTarget("cuda", 90, 32)
_OPTIONS = ("num_warps", "num_stages")


def build_launches(launch: Callable[[], object]) -> list[str]:
    """What `launch` would have run, compiled: each kernel's name, bytes of shared memory, and options."""
    built: list[str] = []

    def build(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        signature, constants, attributes = {}, {}, {}
        for place, param in enumerate(self.params):
            value = values[param.name]
            # As a launch does: None and 1 are constants of the kernel, and multiples of 16 are known to be such.
            if param.is_constexpr or value is None or (isinstance(value, int) and value == 1):
                signature[param.name], constants[(place,)] = "constexpr", value
                continue
            signature[param.name] = mangle_type(value)
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                attributes[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(self, signature, constants, attributes)
        kernel = compile(source, target=H100, options=options)
        shared = kernel.metadata.shared
        assert shared <= 227 * 1024, f"{self.__name__} needs {shared} bytes of shared memory"
        built.append(f"{self.__name__} {shared} {options}")

    original, JITFunction.run = JITFunction.run, build  # type: ignore[method-assign]
    try:
        launch()
    finally:
        JITFunction.run = original  # type: ignore[method-assign]
    return built


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.int32)


def attention() -> None:
    """Decode and prefill, for the head sizes and the cache types there are."""
    from sagellm_engine.kernels.paged_attention_reference import PagedCache
    from sagellm_engine.kernels.paged_decode import paged_decode
    from sagellm_engine.kernels.paged_prefill import paged_prefill

    for head_dim, dtype in (
        (64, torch.bfloat16),
        (96, torch.bfloat16),
        (128, torch.float8_e4m3fn),
        (256, torch.bfloat16),
    ):
        kv = meta(100, 2, 8, 16, head_dim, dtype=dtype)
        scale = meta(8, dtype=torch.float32) if dtype.itemsize == 1 else None
        cache = PagedCache(kv[:, 0], kv[:, 1], scale, scale)
        query = meta(64, 32, head_dim)
        paged_decode(query, cache, ints(9999), ints(64), ints(64), 4096, scale=0.1, splits=3)
        paged_prefill(query, cache, ints(9999), ints(4), ints(5), ints(4), 64, scale=0.1, window=100, softcap=50.0)
        paged_prefill(query, cache, ints(9999), ints(4), ints(5), ints(4), 8, scale=0.1)


def rowwise() -> None:
    """Norms, rotation, activations and sampling."""
    from sagellm_engine.kernels.gated_activation import gated_activation
    from sagellm_engine.kernels.paged_attention_reference import PagedCache
    from sagellm_engine.kernels.rms_norm import add_rms_norm
    from sagellm_engine.kernels.rotary_kv_write import rotary_kv_write
    from sagellm_engine.kernels.sampling import sample

    stream, weight = meta(8, 2048, dtype=torch.float32), meta(2048, dtype=torch.float32)
    add_rms_norm(meta(8, 2048), stream, weight, 1e-6, dtype=torch.bfloat16)
    add_rms_norm(meta(8, 2048), stream, None, 1e-6, dtype=torch.bfloat16, post_weight=weight)
    gated_activation(meta(8, 2 * 5632), "gelu_tanh")
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        kv = meta(100, 2, 8, 16, 128, dtype=dtype)
        scale = meta(8, dtype=torch.float32) if dtype.itemsize == 1 else None
        norm, angles = meta(128, dtype=torch.float32), meta(4096, 64, dtype=torch.float32)
        cache = PagedCache(kv[:, 0], kv[:, 1], scale, scale)
        where = (ints(8), ints(8), angles, angles)
        rotary_kv_write(meta(8, 40 * 128), *where, cache, num_heads=24, query_norm=norm, key_norm=norm)
    single, double = meta(8, dtype=torch.float32), meta(8, dtype=torch.float64)
    sample(meta(8, 128256, dtype=torch.float32), single, ints(8), double, single, double)


def products() -> None:
    """Quantized weights, for decoding and for prompts."""
    from sagellm_engine.kernels.packed_weight import PackedWeight
    from sagellm_engine.kernels.quantized_matmul import quantized_matmul

    for bits, group_size, scale in ((4, 32, torch.float16), (4, 128, torch.float32), (8, 64, torch.float16)):
        values = meta(2048 // group_size, 4096, group_size * bits // 8, dtype=torch.uint8)
        scales = meta(2048 // group_size, 4096, dtype=scale)
        weight = PackedWeight(values, scales, scales, bits, group_size)
        for rows in (8, 24, 48, 512):
            quantized_matmul(meta(rows, 2048), weight)


def experts() -> None:
    """A mixture of experts, for few rows and for many."""
    from sagellm_engine.kernels.grouped_matmul import ExpertOrder, ExpertWeights, grouped_matmul

    # What has no address is given one: it is only compiled.
    weights = ExpertWeights.__new__(ExpertWeights)
    weights.shape, weights.dtype = (128, 1536, 2048), torch.bfloat16
    weights.addresses = meta(128, dtype=torch.int64)
    for rows in (8, 4096):
        order = ExpertOrder(ints(rows * 8), ints(129))
        shares = meta(rows * 8, dtype=torch.float32)
        grouped_matmul(meta(rows, 2048), weights, order, shares=shares)


LAUNCHES = [attention, rowwise, products, experts]

if __name__ == "__main__":
    assert not knobs.runtime.interpret, "unset TRITON_INTERPRET"
    for launches in LAUNCHES:
        for line in build_launches(launches):
            sys.stdout.write(line + "\n")
