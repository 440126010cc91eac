"""By when a request must be started or answered, from its SLOs."""

from math import inf

from sagellm.scheduler.requests import TrackedRequest


def start_by_s(request: TrackedRequest, prefill_s: float, service_s: float) -> float:
    """The latest Unix time of dispatch at which every deadline holds, if prefill and service take so long.

    Infinite where there is no deadline.
    """
    asked = request.request
    latest = inf
    if asked.ttft_slo_ms is not None and not request.resume_token_ids:
        latest = request.arrival_s + asked.ttft_slo_ms / 1e3 - prefill_s
    if asked.slo_deadline_ms is not None:
        latest = min(latest, request.arrival_s + asked.slo_deadline_ms / 1e3 - service_s)
    return latest


def due_s(request: TrackedRequest) -> float:
    """The first deadline of a request, as Unix time; infinite where there is none."""
    asked = request.request
    first_ms, last_ms = asked.ttft_slo_ms, asked.slo_deadline_ms
    if first_ms is None and last_ms is None:
        return inf
    return (
        request.arrival_s + min(inf if first_ms is None else first_ms, inf if last_ms is None else last_ms) / 1e3
    )
