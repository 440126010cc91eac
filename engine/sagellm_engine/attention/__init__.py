"""Attention over the paged KV cache: one backend per device, behind `AttentionBackend`."""

from .backend import AttentionBackend, Span, StepAttention
from .cpu import CpuAttention

__all__ = ["AttentionBackend", "CpuAttention", "Span", "StepAttention"]
