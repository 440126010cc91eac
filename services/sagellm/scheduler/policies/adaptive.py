"""adaptive: the policy that what waits and comes asks for, changed with hysteresis."""

from typing import ClassVar, Self

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key, Outlook, Policy
from .options import PolicyOptions
from .slo_aware import SloAware


class Adaptive(BasePolicy):
    """Delegates to one of the other policies; `active` names it and `reason` says why."""

    name: ClassVar[str] = "adaptive"

    def __init__(self, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self._options = options or PolicyOptions()
        self._policy: Policy = SloAware(self._options)
        self.reason = "the first choice"

    @property
    def active(self) -> str:
        """Name of the policy in use."""
        return self._policy.name

    def attach(self, outlook: Outlook) -> None:
        """The policy in use looks at it too."""
        super().attach(outlook)
        self._policy.attach(outlook)

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
        """As the policy in use says."""
        return self._policy.among(request, candidates, now_s)

    def entered(self, request: TrackedRequest, now_s: float) -> None:
        """Pass it on."""
        self._policy.entered(request, now_s)

    def left(self, request: TrackedRequest, now_s: float) -> None:
        """Pass it on."""
        self._policy.left(request, now_s)

    def charge(self, request: TrackedRequest, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Pass it on."""
        self._policy.charge(request, input_tokens, output_tokens)

    def preview(self) -> Self:
        """A copy that stays with the policy in use."""
        twin = type(self)(self._options)
        twin.outlook = self.outlook
        twin._policy = self._policy.preview()
        return twin
