"""Why a request does not run yet, in one sentence that is true of this very request."""

from collections.abc import Sequence

from sagellm.scheduler.instances import Instance
from sagellm.scheduler.policies import Adaptive, Policy
from sagellm.scheduler.policies.wording import duration
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import EngineState

LISTED = 3
SOON_S = 0.1

_STATES = {
    EngineState.STARTING: "still starts",
    EngineState.DRAINING: "is draining",
    EngineState.STOPPED: "has stopped",
    EngineState.ERROR: "reports an error of its engine",
}


def obstacle(model: str, instances: Sequence[Instance], *, room: bool, next_free_s: float | None) -> str:
    """What holds up every request of a model alike, as a clause; empty if nothing does.

    `room` says whether an instance takes a request at this moment; `next_free_s` when the next credit is probably
    free, in seconds from now, if an instance takes work at all.
    """
    if not instances:
        return f"no instance serves {model!r}"
    ready = [instance for instance in instances if instance.ready]
    unready = sorted((instance for instance in instances if not instance.ready), key=lambda instance: instance.id)
    if not ready:
        return f"none of the {len(instances)} instances takes work: {_why_not(unready)}"
    if room:
        return ""
    used, places = sum(len(i.assigned) for i in ready), sum(i.capacity for i in ready)
    if len(ready) == 1:
        who, full, read = "the only instance that takes work", "is full", "has prompts to read first"
    else:
        all_of = "both" if len(ready) == 2 else f"all {len(ready)}"
        who, full, read = f"{all_of} instances that take work", "are full", "have prompts to read first"
    clause = f"{who} {full if used >= places else read} ({used} of {places} places in use)"
    if used >= places and next_free_s is not None:
        when = "at any moment" if next_free_s < SOON_S else f"in about {duration(next_free_s)}"
        clause += f", the next is free {when}"
    return f"{clause}; {_why_not(unready)}" if unready else clause


def why_not(instance: Instance) -> str:
    """Why an instance takes no work, as a clause without subject; empty if it does."""
    if instance.state is not EngineState.READY:
        return _STATES[instance.state]
    return f"is closed by an operator ({instance.closed})" if instance.closed else ""


def why_waiting(
    request: TrackedRequest,
    position: int | None,
    in_the_way: str,
    policy: Policy,
    now_s: float,
    *,
    held_back: bool = False,
) -> str:
    """The sentence for a request at `position` of its queue (1 goes next, None: too far back to count).

    `in_the_way` is the `obstacle` of its model. `held_back` says that there is room, but not where the policy lets
    it run.
    """
    why = policy.explain(request, now_s)
    if position == 1:
        if in_the_way:
            return _sentence(f"it goes next, but {in_the_way}")
        if held_back:
            return _sentence(
                f"it goes next, but {_name(policy)} keeps it back: {why or 'no place is right for it'}"
            )
        return _sentence("it goes next, in this very moment")
    if position is None:
        ahead = "too many requests to count go"
    else:
        ahead = "1 request goes" if position == 2 else f"{position - 1} requests go"
    ahead += f" before it under {_name(policy)}"
    if why:
        ahead += f" ({why})"
    return _sentence(f"{ahead}, and {in_the_way}" if in_the_way else ahead)


def why_pending(request: TrackedRequest) -> str:
    """The sentence for a request that is neither in the queue nor running."""
    if request.errors:
        return _sentence(
            f"attempt {request.failures} failed ({request.errors[-1].message}), and its reader is being asked how "
            "far it has come, before it goes on elsewhere"
        )
    return _sentence("it may have run before, so its reader is being asked how far it has come")


TAKING_OVER = "The scheduler has just taken over and still reads the queue; nothing is dispatched before it has."


def _name(policy: Policy) -> str:
    return f"adaptive, now {policy.active}" if isinstance(policy, Adaptive) else policy.name


def _why_not(instances: Sequence[Instance]) -> str:
    named = [f"{instance.id} {why_not(instance)}" for instance in instances[:LISTED]]
    if len(instances) > LISTED:
        named.append(f"and {len(instances) - LISTED} more")
    return ", ".join(named)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
