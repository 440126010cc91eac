"""How busy the instances are: the share of time in which their engines were in a step, and their GPUs at work."""

from collections.abc import Iterable
from dataclasses import dataclass

from sagellm.scheduler.instances import Instance


@dataclass(slots=True)
class _Seen:
    step_ms_total: float
    heard_s: float
    busy: float


class Utilization:
    """Averages over the instances, sampled from heartbeats.

    `average` is the time spent in engine steps. Where an engine does not tell (a vLLM server), the share of its
    credits in use stands for it. `gpus` is what GPUs' drivers tell, None where no instance has a GPU that does.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self.average = 0.0
        self.gpus: float | None = None

    def sample(self, instances: Iterable[Instance]) -> None:
        """Bring the averages up to date; called once a second."""
        instances = list(instances)
        seen = {instance.id: self._look(instance) for instance in instances}
        self._seen = seen
        self.average = sum(one.busy for one in seen.values()) / len(seen) if seen else 0.0
        told = [share for one in instances if (share := one.stats.gpu_utilization) is not None]
        self.gpus = sum(told) / len(told) if told else None

    def _look(self, instance: Instance) -> _Seen:
        spent_ms, heard_s = instance.stats.step_ms_total, instance.heard_s
        if not spent_ms:
            return _Seen(0.0, heard_s, min(1.0, instance.load))
        before = self._seen.get(instance.id)
        if before is None:
            return _Seen(spent_ms, heard_s, 0.0)
        if heard_s <= before.heard_s:
            return before
        busy = (spent_ms - before.step_ms_total) / 1000 / (heard_s - before.heard_s)
        return _Seen(spent_ms, heard_s, min(1.0, max(0.0, busy)))
