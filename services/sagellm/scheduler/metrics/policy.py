"""Which policy orders the queue, and why that one."""

from sagellm.scheduler.policies import Adaptive, Policy


class PolicyInUse:
    """The policy of a leader, and which one it delegates to, if it is one that does."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def name(self) -> str:
        """Of the policy itself."""
        return self._policy.name

    @property
    def active(self) -> str:
        """Name of the one that orders the queue at this moment."""
        return self._policy.active if isinstance(self._policy, Adaptive) else self._policy.name

    @property
    def reason(self) -> str:
        """Why it is that one; empty where there is no choice."""
        return self._policy.reason if isinstance(self._policy, Adaptive) else ""

    @property
    def switches_total(self) -> int:
        """How often the choice has changed."""
        return self._policy.switches_total if isinstance(self._policy, Adaptive) else 0
