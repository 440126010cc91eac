"""Durations and priorities in words, for what policies say of their order."""

from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import RequestPriority

MINUTE_S = 60.0
HOUR_S = 3600.0


def duration(seconds: float) -> str:
    """A length of time as people read it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.0f} h"


def priority(request: TrackedRequest) -> str:
    """The name of its priority."""
    return RequestPriority(request.priority).name


def aged(request: TrackedRequest, ageing_s: float) -> str:
    """What its priority means where `ageing_s` is how much longer each step down waits."""
    later_s = request.priority * ageing_s
    if not later_s:
        return f"as {priority(request)}, it goes before all that come after it"
    return f"as {priority(request)}, it counts as if it had come {duration(later_s)} later"
