"""A decoder on a GPU, in Triton kernels; in Triton's interpreter also on a CPU, for tests."""

from .executor import GpuExecutor, awaited
from .kv_cache import KV_CACHE_DTYPES, cache_dtype
from .product import GpuPacker, GpuProduct
from .row_sampling import RowSampling
from .step import Step

__all__ = [
    "KV_CACHE_DTYPES",
    "GpuExecutor",
    "GpuPacker",
    "GpuProduct",
    "RowSampling",
    "Step",
    "awaited",
    "cache_dtype",
]
