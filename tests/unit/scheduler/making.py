"""Requests, instances and outlooks for tests."""

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.policies.base import Unknown
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import EngineState, InferenceRequest, InstanceInfo, InstanceRole


def make_request(
    sequence: int,
    priority: int = 2,
    user_id: str = "",
    arrival_s: float | None = None,
    prompt_tokens: int = 1,
    **fields: object,
) -> TrackedRequest:
    """A tracked request whose id is its sequence number."""
    asked = {"model": "m", "id": f"r{sequence}", "prompt_token_ids": range(prompt_tokens), "user_id": user_id}
    return TrackedRequest(
        request=InferenceRequest(**(asked | fields)),  # type: ignore[arg-type]
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


class TokenClock(Unknown):
    """An outlook under which a prompt's token takes a millisecond, and nothing else takes any time."""

    def prefill_s(self, request: TrackedRequest) -> float:
        return request.prompt_tokens / 1e3

    def service_s(self, request: TrackedRequest) -> float:
        return request.prompt_tokens / 1e3

    def work_s(self, request: TrackedRequest) -> float:
        return request.prompt_tokens / 1e3
