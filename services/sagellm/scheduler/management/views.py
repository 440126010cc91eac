"""Requests and instances as operators see them."""

import time

from msgspec import UNSET

from sagellm.scheduler.forecast import Estimate
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import InstanceView, RequestStatus, RequestView

from .explain import why_not


def view_request(
    request: TrackedRequest,
    *,
    reason: str = "",
    estimate: Estimate | None = None,
    output_tokens: int | None = None,
) -> RequestView:
    """What is known of a request; `estimate` and `reason` if it waits."""
    now_s, asked = time.time(), request.request
    running = request.status is RequestStatus.RUNNING
    dispatched_s = now_s - (time.monotonic() - request.dispatched_s) if running else None
    return RequestView(
        id=request.id,
        model=asked.model,
        status=request.status,
        user_id=asked.user_id,
        priority=request.priority,
        arrived_at=request.arrival_s,
        waited_s=max(0.0, (dispatched_s or now_s) - request.arrival_s),
        prompt_tokens=request.prompt_tokens,
        ttft_slo_ms=asked.ttft_slo_ms,
        slo_deadline_ms=asked.slo_deadline_ms,
        tbt_slo_ms=asked.tbt_slo_ms,
        cost_budget=asked.cost_budget,
        changed=request.changes is not None,
        position=estimate.position if estimate else None,
        predicted_start_at=estimate.start_s if estimate else None,
        predicted_first_token_at=estimate.first_token_s if estimate else None,
        predicted_finish_at=estimate.finish_s if estimate else None,
        reason=reason,
        instance=request.instance,
        attempt=request.attempt,
        failures=request.failures,
        last_error=request.errors[-1].message if request.errors else "",
        dispatched_at=dispatched_s,
        output_tokens=output_tokens,
        adapter=asked.adapter or UNSET,
    )


def view_instance(instance: Instance) -> InstanceView:
    """What is known of an instance."""
    info, stats = instance.info, instance.stats
    used = (stats.kv_blocks - stats.kv_blocks_free) / stats.kv_blocks if stats.kv_blocks else 0.0
    return InstanceView(
        id=instance.id,
        model=info.model,
        role=info.role,
        engine=info.engine,
        host=info.host,
        state=instance.state,
        takes_work=instance.ready,
        reason=why_not(instance),
        closed=instance.closed,
        running=len(instance.assigned),
        max_concurrent_requests=instance.capacity,
        load=instance.load,
        heard_s=max(0.0, time.monotonic() - instance.heard_s),
        step_ms=stats.step_ms,
        kv_used=used,
        output_tokens_total=stats.output_tokens_total,
        price_per_hour=info.price_per_hour,
        started_at=info.started_at,
        server=info.server,
        adapters=info.adapters or UNSET,
    )
