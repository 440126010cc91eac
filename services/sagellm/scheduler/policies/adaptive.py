"""adaptive: the policy that the traffic asks for, changed with hysteresis."""

from typing import ClassVar, Self

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key, Outlook, Policy
from .cost_optimized import CostOptimized, cheapest
from .fair import Fair
from .fifo import Fifo
from .options import PolicyOptions
from .priority import Priority
from .slo_aware import SloAware
from .traffic import Traffic

LOOK_EVERY_S = 1.0
SETTLE_S = 5.0
"""A new choice must have been the best one for so long."""

KEEP_S = 15.0
"""A policy stays for at least so long."""


class Adaptive(BasePolicy):
    """Delegates to one of the other policies: `active` names it and `reason` says why.

    The first that fits: cost_optimized, if there is work that may wait, prices differ, instances are not nearly
    full, and requests do not miss their deadlines while they wait; slo_aware, if there are deadlines; priority, if
    there are several; fair, if one of many users sends most; fifo. Usage is charged to `fair` all the time: it
    knows everybody when its turn comes. Where prices differ, cheap places fill first.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options = options or PolicyOptions()
        self._fair = Fair(options)
        self._policies: dict[str, Policy] = {
            policy.name: policy
            for policy in (Fifo(), Priority(options), SloAware(options), CostOptimized(options), self._fair)
        }
        self._policy: Policy = self._policies["priority"]
        self._traffic = Traffic(options)
        self._looked_s = 0.0
        self._changed_s: float | None = None
        self._wanted = ("priority", 0.0)
        self.reason = "nothing is known yet"
        self.switches_total = 0

    @property
    def paced(self) -> bool:
        """As the policy in use says."""
        return self._policy.paced

    @property
    def active(self) -> str:
        """Name of the policy in use."""
        return self._policy.name

    @property
    def ordering(self) -> Policy:
        """The policy in use."""
        return self._policy

    def attach(self, outlook: Outlook) -> None:
        """Every policy looks at it."""
        super().attach(outlook)
        for policy in self._policies.values():
            policy.attach(outlook)

    def group(self, request: TrackedRequest, now_s: float) -> str:
        """As the policy in use says."""
        return self._policy.group(request, now_s)

    def key(self, request: TrackedRequest) -> Key:
        """As the policy in use says."""
        return self._policy.key(request)

    def rank(self, group: str, first: TrackedRequest, now_s: float) -> Key:
        """As the policy in use says."""
        return self._policy.rank(group, first, now_s)

    def among(self, request: TrackedRequest, candidates: Candidates, now_s: float) -> Candidates:
        """As the policy in use says; cheap places first, which cost_optimized sees to by itself."""
        allowed = self._policy.among(request, candidates, now_s)
        if not allowed or isinstance(self._policy, CostOptimized) or not self.outlook.prices_differ(request):
            return allowed
        return cheapest(allowed)

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """Look at the traffic, now and then, and change the policy if another one suits it better."""
        self._traffic.saw(request, now_s)
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._look(request, now_s)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """See whether it has missed its deadline already."""
        self._traffic.dispatched(request, now_s)

    def changed(self, request: TrackedRequest, now_s: float) -> None:
        """The policy in use is told as well; here it changes nothing."""

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """As the policy in use says."""
        return self._policy.explain(request, now_s)

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Keep the users' accounts."""
        self._fair.charge(request, input_tokens, output_tokens)

    def preview(self) -> Self:
        """A copy that stays with the policy in use."""
        twin = type(self)(self._options)
        twin.attach(self.outlook)
        twin._policy = self._policy.preview()
        if isinstance(twin._policy, Fair):
            twin._fair = twin._policy
        return twin

    def state(self) -> dict[str, float]:
        """The users' accounts."""
        return self._fair.state()

    def restore(self, state: dict[str, float]) -> None:
        """Go on from these accounts."""
        self._fair.restore(state)

    def _look(self, request: TrackedRequest, now_s: float) -> None:
        name, reason = self._traffic.suits(self.active, self.outlook.prices_differ(request), self.outlook.load)
        if name != self._wanted[0]:
            self._wanted = (name, now_s)
        if name == self.active:
            self.reason = reason
        elif self._changed_s is None or (
            now_s - self._wanted[1] >= SETTLE_S and now_s - self._changed_s >= KEEP_S
        ):
            self._policy = self._policies[name]
            self._changed_s = now_s
            self.reason = reason
            self.switches_total += 1
