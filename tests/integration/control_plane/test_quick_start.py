"""The original's quick start with nothing but its import changed, and our example."""

import asyncio
import sys
from pathlib import Path

import pytest

from sagellm import ControlPlaneManager, ExecutionInstance, RequestMetadata, RequestPriority, RequestStatus

from ..worker.fake_vllm import FakeVllm  # noqa: TID252 (tests are no package)

EXAMPLE = Path(__file__).parents[3] / "examples" / "control_plane.py"


async def test_the_quick_start_of_the_original_works(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeVllm().running() as first, FakeVllm().running() as second:
        cp = ControlPlaneManager(
            scheduling_policy="adaptive", routing_strategy="load_balanced", enable_monitoring=True
        )
        instance1 = ExecutionInstance(
            instance_id="vllm-1",
            host="localhost",
            port=first.port,
            model_name="llama-3-70b",
            tensor_parallel_size=4,
            gpu_count=4,
            gpu_memory_gb=80.0,
            max_concurrent_requests=100,
        )
        cp.register_instance(instance1)
        instance2 = ExecutionInstance(
            instance_id="vllm-2",
            host="localhost",
            port=second.port,
            model_name="llama-3-70b",
            tensor_parallel_size=2,
            pipeline_parallel_size=2,
            gpu_count=4,
            gpu_memory_gb=80.0,
            max_concurrent_requests=50,
        )
        cp.register_instance(instance2)
        await cp.start()
        request = RequestMetadata(
            request_id="req-001",
            user_id="user-123",
            priority=RequestPriority.HIGH,
            slo_deadline_ms=1000,
            max_tokens=100,
            model_name="llama-3-70b",
        )
        request_id = await cp.submit_request(request)
        assert request_id == "req-001"
        result = await asyncio.wait_for(cp.get_result(request_id), 20)  # where the original slept, and polled
        assert await cp.get_request_status(request_id) is RequestStatus.COMPLETED
        assert result.text
        metrics = cp.get_metrics()
        assert (metrics.total_requests, metrics.completed_requests, metrics.failed_requests) == (1, 1, 0)
        assert metrics.avg_latency_ms == metrics.p95_latency_ms == metrics.p99_latency_ms > 0
        cp.update_policy("cost_optimized")
        status = cp.get_status()
        assert status["running"] is True
        assert status["scheduling_policy"] == "cost_optimized"
        assert (status["pending_requests"], status["running_requests"]) == (0, 0)
        await cp.stop()
        assert cp.get_status()["running"] is False
        assert len(first.bodies) + len(second.bodies) == 1
    assert "has no prompt" in caplog.text


async def test_the_example_prints_answers_and_metrics() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    printed, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert printed.decode().count("completed in ") == 3
    assert "completed: 3" in printed.decode()
    assert "SLO compliance: 100%" in printed.decode()
