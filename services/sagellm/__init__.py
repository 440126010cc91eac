"""sageLLM's services: ingress, scheduler and worker, the broker they meet on, and the command line.

The classes of the in-process control plane can be imported from here; they are loaded when first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .control_plane import (
        ControlPlaneManager,
        ExecutionInstance,
        ExecutionInstanceType,
        ParallelismType,
        PerformanceMetrics,
        RequestMetadata,
        RequestPriority,
        RequestResult,
        RequestStatus,
        RequestType,
    )

__all__ = [
    "ControlPlaneManager",
    "ExecutionInstance",
    "ExecutionInstanceType",
    "ParallelismType",
    "PerformanceMetrics",
    "RequestMetadata",
    "RequestPriority",
    "RequestResult",
    "RequestStatus",
    "RequestType",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        from sagellm import control_plane

        return getattr(control_plane, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
