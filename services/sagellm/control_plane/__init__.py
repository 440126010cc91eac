"""The in-process face: the original control plane's classes, over the real pipeline."""

from sagellm_schemas import RequestPriority, RequestStatus, RequestType

from .instance import ExecutionInstance
from .manager import ControlPlaneManager
from .metrics import PerformanceMetrics
from .request import RequestMetadata
from .result import RequestResult
from .vocabulary import ExecutionInstanceType, ParallelismType

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
