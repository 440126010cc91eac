"""Recorded traffic: Azure's and Mooncake's public formats, and our own."""

from .mix import Mix, apply_mixes, parse_mix
from .read import read_trace
from .recorded import Ending, RecordedRequest
from .request import NEVER_MISSED, TraceRequest
from .sharing import shareable

__all__ = [
    "NEVER_MISSED",
    "Ending",
    "Mix",
    "RecordedRequest",
    "TraceRequest",
    "apply_mixes",
    "parse_mix",
    "read_trace",
    "shareable",
]
