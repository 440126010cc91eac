"""The scheduler's side of a simulation: the queue, policy and router that serve, driven by simulated events."""

from collections.abc import Iterator

from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router
from sagellm_schemas import RequestStatus


class SimulatedScheduler:
    """Makes the calls that `sagellm.scheduler.dispatcher` makes, in its order."""

    def __init__(self, policy: Policy, router: Router, instances: Instances, model: str) -> None:
        self._policy = policy
        self._router = router
        self._instances = instances
        self._model = model
        self._queue = RequestQueue(policy)
        self._turns = 0

    def __len__(self) -> int:
        return len(self._queue)

    def enqueue(self, tracked: TrackedRequest, now_s: float) -> None:
        """Let a request wait."""
        tracked.status = RequestStatus.QUEUED
        self._queue.push(tracked, now_s)

    def assign(self, now_s: float) -> Iterator[tuple[TrackedRequest, Instance]]:
        """One pass: who runs where from now on."""
        if not self._queue:
            return
        candidates = self._instances.with_credit(self._model)
        while candidates and (tracked := self._queue.pop(now_s)) is not None:
            instance = self._router.choose(tracked, candidates)
            tracked.attempt += 1
            tracked.status = RequestStatus.RUNNING
            tracked.instance = instance.id
            tracked.dispatched_s = now_s
            instance.assigned.add(tracked.id)
            self._turns += 1
            instance.last_turn = self._turns
            self._policy.charge(tracked, len(tracked.request.prompt_token_ids or ()))
            yield tracked, instance
            if not instance.has_credit:
                candidates.remove(instance)

    def ended(self, tracked: TrackedRequest, output_tokens: int) -> None:
        """A report has come: its credit is free, its output is accounted."""
        instance = self._instances.get(tracked.instance)
        assert instance is not None, "instances do not go away here"
        instance.assigned.discard(tracked.id)
        self._policy.charge(tracked, output_tokens)
