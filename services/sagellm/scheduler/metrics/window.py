"""What happened lately: sums and distributions over a rolling window, in slots that are dropped as they age."""

from collections import deque
from dataclasses import dataclass, field

from .sketch import Sketch

SLOT_S = 5.0
SLOTS = 12


@dataclass(slots=True, eq=False)
class Slot:
    """One piece of the window. SLO counts are of requests that stated one, by priority's number."""

    began_s: float
    completed: int = 0
    good: int = 0
    output_tokens: int = 0
    latency: Sketch = field(default_factory=Sketch)
    ttft: Sketch = field(default_factory=Sketch)
    tpot: Sketch = field(default_factory=Sketch)
    longest_gap: Sketch = field(default_factory=Sketch)
    queue_wait: Sketch = field(default_factory=Sketch)
    slo_requests: dict[int, int] = field(default_factory=dict)
    slo_violations: dict[int, int] = field(default_factory=dict)


class Window:
    """The last minute, to within one slot. Times are of one monotonic clock, in seconds."""

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._slots: deque[Slot] = deque([Slot(now_s)], maxlen=SLOTS + 1)

    def at(self, now_s: float) -> Slot:
        """The slot that things of this moment are counted in."""
        latest = self._slots[-1]
        if now_s - latest.began_s < SLOT_S:
            return latest
        self._slots.append(Slot(self._slot_of(now_s)))
        return self._slots[-1]

    def slots(self, now_s: float) -> list[Slot]:
        """The slots of the window, oldest first; those in which nothing happened may be missing."""
        since_s = self.since_s(now_s)
        return [slot for slot in self._slots if slot.began_s >= since_s]

    def since_s(self, now_s: float) -> float:
        """When the window began: less than a minute ago in the beginning."""
        return max(self._began_s, self._slot_of(now_s) - (SLOTS - 1) * SLOT_S)

    def _slot_of(self, now_s: float) -> float:
        return self._began_s + (now_s - self._began_s) // SLOT_S * SLOT_S
