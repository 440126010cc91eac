"""topology_aware: near where this request, session or user ran last: the same machine, or else the same rack."""

from collections import OrderedDict
from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest

from .affinity import owner_of
from .load_balanced import by_load

REMEMBERED = 100_000
MACHINE_SPREAD = 0.25
RACK_SPREAD = 0.1
"""How much more load, as a share of the credits, a near instance may have than the least loaded of all."""


class TopologyAware:
    """The least loaded instance on the machine of the last place, if its load is at most 0.25 above the least of
    all; or else the least loaded in the rack, if at most 0.1 above; or else the least loaded of all.

    The last place of a request is where its previous phase or attempt ran: a decode goes near its prefill, as
    its KV blocks have the shortest way then. The last place of a session (or user) is where its previous request
    ran, as what a machine or rack shares (page cache, KV kept in host memory) is warm there. Instances that name
    no machine or rack are near nobody.
    """

    name: ClassVar[str] = "topology_aware"

    def __init__(self) -> None:
        self._places: OrderedDict[str, Instance] = OrderedDict()

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The nearest that is not much busier than the least loaded."""
        owner = f"owner {owner_of(request)}"
        last = self._places.get(request.id) or self._places.get(owner)
        chosen = candidates.least(by_load)
        if last is not None:
            chosen = _near(last, candidates, chosen)
        self._remember(request.id, chosen)
        self._remember(owner, chosen)
        return chosen

    def _remember(self, key: str, instance: Instance) -> None:
        self._places.pop(key, None)
        self._places[key] = instance
        if len(self._places) > REMEMBERED:
            self._places.popitem(last=False)


def _near(last: Instance, candidates: Candidates, least: Instance) -> Instance:
    for attribute, spread in ((machine, MACHINE_SPREAD), (rack, RACK_SPREAD)):
        place = attribute(last)
        if place:
            near = candidates.part(attribute, place)
            if near and (found := near.least(by_load)).load <= least.load + spread:
                return found
    return least


def machine(instance: Instance) -> str:
    """Its machine; empty if it names none."""
    return instance.info.machine_id


def rack(instance: Instance) -> str:
    """Its rack; empty if it names none."""
    return instance.info.rack_id
