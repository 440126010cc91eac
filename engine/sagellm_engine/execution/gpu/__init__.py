"""A decoder on a GPU, in Triton kernels; in Triton's interpreter also on a CPU, for tests."""

from .executor import GpuExecutor, awaited
from .kv_cache import cache_dtype
from .product import GpuPacker, GpuProduct
from .step import Step

__all__ = [
    "GpuExecutor",
    "GpuPacker",
    "GpuProduct",
    "Step",
    "awaited",
    "cache_dtype",
]
