"""`preferred_instance_id`: what a request asks for itself, before any strategy is asked."""

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


def preferred(request: TrackedRequest, candidates: Candidates) -> Instance | None:
    """The instance that `request` prefers, if it can take it now.

    It is named by its id, or by the worker's own name, to which every life of a worker adds a suffix.
    """
    wanted = request.request.preferred_instance_id
    if not wanted:
        return None
    found = candidates.get(wanted)
    if found is None and (named := candidates.part(worker_name, wanted)):
        found = named[0]
    return found


def worker_name(instance: Instance) -> str:
    """The name that a worker was given, without the suffix of this life."""
    return instance.id.rpartition("-")[0]
