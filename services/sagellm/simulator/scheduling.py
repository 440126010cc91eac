"""The scheduler's side of a simulation: the queue, policy and router that serve, driven by simulated events."""

from collections.abc import Iterable, Iterator

from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router, preferred
from sagellm_schemas import InstanceStats, RequestStatus


class SimulatedScheduler:
    """Makes the calls that `sagellm.scheduler` makes on its way from heartbeat to report, in its order.

    The estimates learn what they learn in life: step times from heartbeats, lengths from answers that have ended.
    Times are Unix seconds.
    """

    def __init__(self, policy: Policy, router: Router, instances: Instances, model: str) -> None:
        self.estimates = Estimates()
        self._policy = policy
        self._router = router
        self._instances = instances
        self._model = model
        self._queue = RequestQueue(policy)
        self._turns = 0
        policy.attach(self.estimates)

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

    def assign(self, now_s: float) -> Iterator[tuple[TrackedRequest, Instance]]:
        """One pass: who runs where from now on."""
        if not self._queue:
            return
        candidates = self._instances.with_credit(self._model)
        self.estimates.load = candidates.load
        while candidates and (tracked := self._queue.first(now_s)) is not None:
            allowed = self._policy.among(tracked, candidates, now_s)
            if not allowed:
                break
            self._queue.pop(now_s)
            instance = preferred(tracked, allowed) or self._router.choose(tracked, allowed)
            self._dispatch(tracked, instance, now_s)
            yield tracked, instance

    def started(self, tracked: TrackedRequest) -> None:
        """A report has come: it has its first token, so its instance has room for other prompts."""
        instance = self._instances.get(tracked.instance)
        assert instance is not None, "instances do not go away here"
        instance.started(tracked.id)

    def ended(self, tracked: TrackedRequest, output_tokens: int, now_s: float) -> None:
        """A report has come: its credit is free, its output is learned from and accounted."""
        instance = self._instances.get(tracked.instance)
        assert instance is not None, "instances do not go away here"
        instance.release(tracked.id)
        self.estimates.ended(tracked, now_s, output_tokens)
        self._policy.charge(tracked, output_tokens=max(0, output_tokens - tracked.charged_tokens))
        tracked.charged_tokens = output_tokens

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
