"""The scheduler's side of a simulation: the queue, policy and router that serve, driven by simulated events."""

from collections.abc import Iterable, Iterator

from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.matching import Match, Matcher, Refusal
from sagellm.scheduler.pd import PdPolicy, PdRouter
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router
from sagellm_schemas import InstanceStats, RequestStatus


class SimulatedScheduler:
    """Makes the calls that `sagellm.scheduler` makes on its way from heartbeat to report, in its order.

    The estimates learn what they learn in life: step times from heartbeats, lengths from answers that have ended.
    Times are Unix seconds.
    """

    def __init__(
        self,
        policy: Policy,
        router: Router,
        pd_policy: PdPolicy,
        instances: Instances,
        model: str,
        transfer_s_per_token: float,
    ) -> None:
        self.estimates = Estimates()
        self._policy = policy
        self._router = router
        self._instances = instances
        self._model = model
        self._queue = RequestQueue(policy)
        self._turns = 0
        policy.attach(self.estimates)
        self._pd = PdRouter(
            pd_policy, instances, self.estimates, transfers=True, transfer_s_per_token=transfer_s_per_token
        )
        self._matcher = Matcher(policy, router, self._pd, self.estimates)

    def __len__(self) -> int:
        return len(self._queue)

    def heard(self, heartbeats: Iterable[InstanceStats], now_s: float) -> None:
        """Heartbeats have come."""
        for heartbeat in heartbeats:
            self._instances.heard(heartbeat, now_s)
            self.estimates.heard(heartbeat)

    def enqueue(self, tracked: TrackedRequest, now_s: float) -> None:
        """Let a request wait."""
        tracked.status = RequestStatus.QUEUED
        self._queue.push(tracked, now_s)

    def assign(self, now_s: float) -> Iterator[Match | Refusal]:
        """One pass: who runs where from now on, and whose budget does not pay for it."""
        if not self._queue:
            return
        for found in self._matcher.matches(self._model, self._queue, now_s):
            if isinstance(found, Match):
                self._dispatch(found.tracked, found.instance, now_s)
            yield found

    def go_on(self, tracked: TrackedRequest) -> Instance | None:
        """Where a request decodes whose prompt is computed elsewhere; None if there is no room yet."""
        candidates = self._pd.decoding(self._model)
        if not candidates:
            return None
        instance = self._router.choose(tracked, candidates)
        tracked.instance = instance.id
        self._turns += 1
        instance.assign(tracked.id, self._turns)
        return instance

    def handed_over(self, tracked: TrackedRequest) -> None:
        """Its prompt is computed, and its credit is free."""
        self._instance(tracked).release(tracked.id)

    def started(self, tracked: TrackedRequest) -> None:
        """A report has come: it has its first token, so its instance has room for other prompts."""
        self._instance(tracked).started(tracked.id)

    def ended(self, tracked: TrackedRequest, output_tokens: int, now_s: float) -> None:
        """A report has come: its credit is free, its output is learned from and accounted."""
        self._instance(tracked).release(tracked.id)
        self.estimates.ended(tracked, now_s, output_tokens)
        self._policy.charge(tracked, output_tokens=max(0, output_tokens - tracked.charged_tokens))
        tracked.charged_tokens = output_tokens

    def _instance(self, tracked: TrackedRequest) -> Instance:
        instance = self._instances.get(tracked.instance)
        assert instance is not None, "instances do not go away here"
        return instance

    def _dispatch(self, tracked: TrackedRequest, instance: Instance, now_s: float) -> None:
        first = tracked.attempt == 0
        tracked.attempt += 1
        tracked.status = RequestStatus.RUNNING
        tracked.instance = instance.id
        tracked.dispatched_s = now_s
        self._turns += 1
        instance.assign(tracked.id, self._turns, tracked.prompt_tokens)
        self.estimates.dispatched(tracked, now_s)
        if first:
            self._policy.charge(tracked, input_tokens=tracked.prompt_tokens)
