"""Number formats: the size of a weight, and at which rate a GPU multiplies it."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from sagellm_schemas import InvalidRequest


class Precision(msgspec.Struct, frozen=True):
    """`weight_bytes` includes the scales of quantized formats. `fp8` says that products run at the FP8 rate."""

    weight_bytes: float
    fp8: bool = False


SCALES_INT4 = 0.0625
"""Bytes per weight for one 16-bit scale and zero point per group of 64 weights."""

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": Precision(4.0),
        "bfloat16": Precision(2.0),
        "float16": Precision(2.0),
        "fp8": Precision(1.0, fp8=True),
        "int8": Precision(1.0),
        "int4": Precision(0.5 + SCALES_INT4),
    }
)

KV_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "fp8": 1})
"""Bytes of one cached number."""


def precision(dtype: str) -> Precision:
    """The format called `dtype`.

    Raises:
        InvalidRequest: there is none; the message lists those there are.
    """
    if dtype not in PRECISIONS:
        raise InvalidRequest(f"dtype must be one of {', '.join(PRECISIONS)}; got {dtype!r}", param="dtype")
    return PRECISIONS[dtype]
