"""What a policy is: the order of one queue, told in three small questions, and hooks for what it wants to know.

A queue keeps its requests in groups. Inside a group the order is fixed when a request enters; between groups it
is asked again at every pop, but only of each group's first request. So every operation stays O(log n), and still
a policy can change its mind:

- a fixed order (fifo, sjf, edf, priority with ageing as `arrival + priority * step`): one group, `key` alone;
- slo_aware with relegation: groups "in time" and "late", whose ranks say whose turn it is; `group` says "late"
  once the first request of "in time" cannot make its deadline any more;
- fair by virtual token counters: one group per user, `rank` is the user's counter, which `charge` advances.

A policy is pure but for what its hooks told it: no clock, no I/O; the simulator runs the same objects. One object
serves the queues of all models.
"""

from typing import ClassVar, Protocol, Self

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.requests import TrackedRequest

Key = tuple[float, ...]


class Outlook(Protocol):
    """What a policy may ask of its surroundings. Durations are seconds."""

    load: float
    """Share of all credits in use, 0 to 1, as of the latest pass."""

    def prefill_s(self, request: TrackedRequest) -> float:
        """From its dispatch to its first token, if it were dispatched now."""
        ...

    def service_s(self, request: TrackedRequest) -> float:
        """From its dispatch to its last token, if it were dispatched now; cautious."""
        ...

    def work_s(self, request: TrackedRequest) -> float:
        """How much of an instance's time it takes from others: by how much it makes steps longer, together."""
        ...

    def instances(self, request: TrackedRequest) -> int:
        """How many instances serve its model, at least 1."""
        ...

    def lowest_price(self, request: TrackedRequest) -> float:
        """The lowest price per hour among the instances of its model, free or not; 0 if there are none."""
        ...

    def prices_differ(self, request: TrackedRequest) -> bool:
        """Whether the instances of its model differ in price."""
        ...

    def output_tokens(self, request: TrackedRequest) -> int:
        """How many tokens it will probably answer with, those that its reader holds included; cautious."""
        ...


class Policy(Protocol):
    """Order of waiting requests. Times are Unix seconds; lower keys and ranks go first."""

    name: ClassVar[str]

    @property
    def ordering(self) -> "Policy":
        """Whose `group`, `key` and `rank` count: itself, or another one that it leaves the order to for now.

        That one is told as well of what enters and leaves. When it is exchanged for another, queues go over to the
        new order in small steps, and serve by the old one until it is complete.
        """
        ...

    @property
    def paced(self) -> bool:
        """Whether an engine's steps compute no more of prompts than the `tbt_slo_ms` of what decodes beside allow.

        Asked at each dispatch. Otherwise a step computes as much as its token budget allows.
        """
        ...

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """The group `request` waits in.

        Asked when it enters, and again whenever it is the first of its group: an answer that has changed moves it.
        """
        ...

    def key(self, request: TrackedRequest) -> Key:
        """Place of `request` within its present group; equal keys go by arrival in the durable queue."""
        ...

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """Place of a group whose first request is `first`. For the same `first` it may grow, never shrink."""
        ...

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """Those of `candidates` that may run `request` now; the routing strategy chooses one of them.

        `Candidates.part` finds them without looking at each. None of them means: it waits, and so does everything
        behind it, until the next pass.
        """
        ...

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """`request` begins to wait; told before `group` and `key` are asked."""
        ...

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """`request` waits no more: it is dispatched, cancelled, or refused."""
        ...

    def changed(self, request: TrackedRequest, now_s: float) -> None:
        """An operator has changed priority or deadlines of `request`, which goes on waiting.

        Told before `group` and `key` are asked anew.
        """
        ...

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """Why `request`, which waits, stands where it does: a clause for people, without a full stop.

        An empty one means that there is nothing to say but the policy's name.
        """
        ...

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Account usage: `input_tokens` at the first dispatch, `output_tokens` when an attempt ends."""
        ...

    def attach(self, outlook: Outlook) -> None:
        """Look at this from now on; told once, before anything else."""
        ...

    def preview(self) -> Self:
        """An independent copy with the same state: a forecast pops from it, and changes nothing here."""
        ...

    def state(self) -> dict[str, float]:
        """What must survive a change of leader; empty for most."""
        ...

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what another object's `state` returned."""
        ...


class Unknown:
    """The outlook of somebody who knows nothing: everything takes no time."""

    load = 0.0

    def prefill_s(self, request: TrackedRequest) -> float:
        """No time."""
        return 0.0

    def service_s(self, request: TrackedRequest) -> float:
        """No time."""
        return 0.0

    def work_s(self, request: TrackedRequest) -> float:
        """No time."""
        return 0.0

    def instances(self, request: TrackedRequest) -> int:
        """One."""
        return 1

    def lowest_price(self, request: TrackedRequest) -> float:
        """Nothing costs anything."""
        return 0.0

    def prices_differ(self, request: TrackedRequest) -> bool:
        """All are alike."""
        return False

    def output_tokens(self, request: TrackedRequest) -> int:
        """What it asks for."""
        return request.request.sampling.max_tokens or 0


class BasePolicy:
    """Base of policies: one group, in order of arrival, and hooks that do nothing. Override what differs."""

    name: ClassVar[str] = "base"

    def __init__(self) -> None:
        self.outlook: Outlook = Unknown()

    @property
    def ordering(self) -> Policy:
        """Its own."""
        return self

    @property
    def paced(self) -> bool:
        """Steps as large as their budget."""
        return False

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """All in one group."""
        return ""

    def key(self, request: TrackedRequest) -> Key:
        """Order of arrival."""
        return ()

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """All groups alike."""
        return ()

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """Any will do."""
        return candidates

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """Nobody keeps count."""

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Nobody keeps count."""

    def changed(self, request: TrackedRequest, now_s: float) -> None:
        """As if it came anew."""
        self.left(request, now_s)
        self.entered(request, now_s)

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """Nothing to say."""
        return ""

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Usage does not matter."""

    def attach(self, outlook: Outlook) -> None:
        """Keep it as `self.outlook`."""
        self.outlook = outlook

    def preview(self) -> Self:
        """Without state, this one serves as its own copy."""
        return self

    def state(self) -> dict[str, float]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Nothing to go on from."""
