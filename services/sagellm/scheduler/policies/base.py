"""What a policy is: the order of one queue, told in three small questions.

A queue keeps its requests in groups. Inside a group the order is fixed when a request enters; between groups it
is asked again at every pop, but only of each group's first request. So every operation stays O(log n), and still
a policy can change its mind:

- a fixed order (fifo, priority, ageing as `priority * weight + arrival`, cost): one group, `key` alone;
- slo_aware with relegation: groups "in time" (key: deadline) and "late" (key: arrival); `rank` puts "late" last,
  and `group` says "late" once the first request of "in time" cannot make its deadline any more;
- fair by virtual token counters: one group per user, `rank` is the user's counter, which `charge` advances.

A policy is pure but for what `charge` told it: no clock, no I/O; the simulator runs the same objects.
"""

from typing import ClassVar, Protocol

from sagellm.scheduler.requests import TrackedRequest

Key = tuple[float, ...]


class Policy(Protocol):
    """Order of waiting requests. Times are Unix seconds; lower keys and ranks go first."""

    name: ClassVar[str]

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """The group `request` waits in.

        Asked when it enters, and again whenever it is the first of its group: an answer that has changed moves it.
        """
        ...

    def key(self, request: TrackedRequest) -> Key:
        """Place of `request` within its group; equal keys go by arrival in the durable queue."""
        ...

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """Place of a group whose first request is `first`. For the same `first` it may grow, never shrink."""
        ...

    def charge(self, request: TrackedRequest, tokens: int) -> None:
        """Account `tokens` to `request`: its prompt's at dispatch, its output's at the end."""
        ...


class FixedOrder:
    """Base of the policies whose order never changes while a request waits: they only give `key`."""

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """All in one group."""
        return ""

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """There is one group."""
        return ()

    def charge(self, request: TrackedRequest, tokens: int) -> None:
        """Usage does not matter."""
