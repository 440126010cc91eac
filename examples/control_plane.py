"""The control plane in one process: register engines, submit requests with priorities and SLOs, read the metrics.

python control_plane.py                       a mock engine, which needs no model
python control_plane.py localhost:8000 NAME   a running vLLM server and the model it serves
"""

import asyncio
import sys

from sagellm import ControlPlaneManager, ExecutionInstance, RequestMetadata, RequestPriority


async def main(address: str = "", model: str = "demo-model") -> None:
    manager = ControlPlaneManager(scheduling_policy="adaptive", routing_strategy="load_balanced")
    if address:
        host, _, port = address.rpartition(":")
        instance = ExecutionInstance(instance_id="vllm-1", host=host, port=int(port), model_name=model)
    else:
        metadata = {"engine": "mock", "mock_ttft_ms": 5, "mock_tpot_ms": 2}
        instance = ExecutionInstance(
            instance_id="mock-1", model_name=model, max_concurrent_requests=2, metadata=metadata
        )
    manager.register_instance(instance)
    await manager.start()
    try:
        ids = []
        for priority in (RequestPriority.BACKGROUND, RequestPriority.NORMAL, RequestPriority.CRITICAL):
            request = RequestMetadata(
                prompt=f"Say something {priority.name.lower()}.",
                user_id="user-123",
                priority=priority,
                slo_deadline_ms=60_000,
                max_tokens=16,
                model_name=model,
            )
            ids.append(await manager.submit_request(request))
        print("submitted:", [str(await manager.get_request_status(request_id)) for request_id in ids])

        for request_id in ids:
            result = await manager.get_result(request_id)
            print(f"{result.status} in {result.latency_ms:.0f} ms: {result.text}")

        metrics = manager.get_metrics()
        print(f"completed: {metrics.completed_requests}, average latency: {metrics.avg_latency_ms:.0f} ms")
        print(f"SLO compliance: {metrics.slo_compliance_rate:.0%}")
    finally:
        await manager.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
