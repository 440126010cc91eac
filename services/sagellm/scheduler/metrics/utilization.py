"""How busy the instances are: the share of time in which their engines were in a step."""

from collections.abc import Iterable
from dataclasses import dataclass

from sagellm.scheduler.instances import Instance


@dataclass(slots=True)
class _Seen:
    steps_total: int
    heard_s: float
    busy: float


class Utilization:
    """Busy shares, sampled from heartbeats: steps taken times their duration.

    Where an engine counts no steps (a vLLM server), the share of its credits in use stands for it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self.average = 0.0

    def sample(self, instances: Iterable[Instance]) -> None:
        """Bring `average` up to date; called once a second."""
        seen = {instance.id: self._look(instance) for instance in instances}
        self._seen = seen
        self.average = sum(one.busy for one in seen.values()) / len(seen) if seen else 0.0

    def _look(self, instance: Instance) -> _Seen:
        steps, heard_s = instance.engine.steps_total, instance.heard_s
        if not steps:
            return _Seen(0, heard_s, min(1.0, instance.load))
        before = self._seen.get(instance.id)
        if before is None:
            return _Seen(steps, heard_s, 0.0)
        if heard_s <= before.heard_s:
            return before
        taken = max(0, steps - before.steps_total)
        busy = taken * instance.engine.step_ms / 1000 / (heard_s - before.heard_s)
        return _Seen(steps, heard_s, min(1.0, busy))
