"""CPU kernels in C++, compiled for the machine at hand."""

from .executor import NativeExecutor, block_bytes
from .library import KernelsUnavailableError, load_library
from .packer import NativePacker

__all__ = ["KernelsUnavailableError", "NativeExecutor", "NativePacker", "block_bytes", "load_library"]
