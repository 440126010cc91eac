"""`ExecutionInstance`: an engine as users of the original describe it."""

from dataclasses import dataclass, field
from typing import Any

from sagellm_schemas import RequestType

from .vocabulary import ExecutionInstanceType

FULL_LOAD = 0.95


@dataclass(kw_only=True)
class ExecutionInstance:
    """A vLLM server at `host:port`, or another engine that `metadata["engine"]` names: "mock" or "sagellm".

    `model_name` is what requests call the model. The sizes of its parallelism and its GPUs describe the server;
    they are shown, and change nothing. The manager keeps `is_available`, `is_healthy`, `current_load`,
    `active_requests` and `throughput_tokens_per_sec` up to date; `avg_latency_ms` and `gpu_utilization` are yours.
    """

    instance_id: str
    model_name: str
    host: str = "localhost"
    port: int = 8000
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    instance_type: ExecutionInstanceType = ExecutionInstanceType.GENERAL
    prefilling_config: object | None = None
    decoding_config: object | None = None
    gpu_count: int = 1
    gpu_memory_gb: float = 0.0
    gpu_utilization: float = 0.0
    is_available: bool = True
    is_healthy: bool = True
    current_load: float = 0.0
    avg_latency_ms: float = 0.0
    throughput_tokens_per_sec: float = 0.0
    active_requests: int = 0
    max_concurrent_requests: int = 100
    supported_request_types: list[RequestType] | None = None
    machine_id: str | None = None
    rack_id: str | None = None
    nvlink_peers: list[str] = field(default_factory=list)
    numa_node: int | None = None
    price_per_hour: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def can_accept_request(self) -> bool:
        """Whether another request may go there."""
        return (
            self.is_available
            and self.is_healthy
            and self.active_requests < self.max_concurrent_requests
            and self.current_load < FULL_LOAD
        )
