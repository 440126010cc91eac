"""Requests and instances for tests."""

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import EngineState, InferenceRequest, InstanceInfo, InstanceRole


def make_request(
    sequence: int, priority: int = 2, user_id: str = "", arrival_s: float | None = None
) -> TrackedRequest:
    """A tracked request whose id is its sequence number."""
    return TrackedRequest(
        request=InferenceRequest(model="m", id=f"r{sequence}", prompt="x", user_id=user_id),
        sequence=sequence,
        ack_subject=f"ack.{sequence}",
        reply_format="application/json",
        priority=priority,
        arrival_s=float(sequence) if arrival_s is None else arrival_s,
    )


def make_instance(name: str, capacity: int = 2, role: InstanceRole = InstanceRole.GENERAL) -> Instance:
    """A ready instance."""
    info = InstanceInfo(instance_id=name, model="m", max_concurrent_requests=capacity, role=role)
    return Instance(info, EngineState.READY, heard_s=0.0)
