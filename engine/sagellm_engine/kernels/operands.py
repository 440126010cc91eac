"""What tensor cores multiply."""

import torch
import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on a CPU: `TRITON_INTERPRET=1` before triton is imported."""

_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def element_type(dtype: torch.dtype) -> tl.dtype:
    """Triton's name of `dtype`."""
    return _TYPES[dtype]


def dot_type(dtype: torch.dtype) -> tl.dtype:
    """The type of `tl.dot`'s operands for activations of `dtype`.

    The interpreter computes with NumPy, which has no bfloat16: there a product of bfloat16 is one of float32.
    """
    return tl.float32 if INTERPRETED else _TYPES[dtype]
