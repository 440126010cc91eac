"""The decision itself: which waiting request goes next, and where. Service and simulator share this object."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sagellm.scheduler.costs import tariff_of, within_budget
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.pd import PdRouter
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router, preferred
from sagellm_schemas import BudgetExceeded, InferenceRequest, Tariff

MOST_PASSED_OVER = 16
"""So many requests are passed over in one pass because no instance with their adapter has a free credit."""


@dataclass(frozen=True, slots=True)
class Match:
    """Who runs where, and how much of it; `group` is the policy's in which it waited.

    `request` is what it asks for, with as many tokens as its budget pays for under `tariff`. With `paced` the
    policy wants steps short enough for its decodes.
    """

    tracked: TrackedRequest
    instance: Instance
    phase: Phase
    group: str
    request: InferenceRequest
    tariff: Tariff | None
    paced: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Whose budget pays for no instance of its model, and why."""

    tracked: TrackedRequest
    error: BudgetExceeded


class Matcher:
    """Takes requests off a queue while there are instances for them."""

    def __init__(self, policy: Policy, router: Router, pd: PdRouter, estimates: Estimates) -> None:
        self.policy = policy
        self.router = router
        self._pd = pd
        self._estimates = estimates
        self.decided_s = 0.0
        """How long deciding took, over all matches."""

    def has_place(self, tracked: TrackedRequest) -> bool:
        """Whether an instance that `tracked` can run at has a free credit."""
        return self._pd.available(tracked.request.model, tracked.request.adapter)

    def matches(self, model: str, queue: RequestQueue, now_s: float) -> Iterator[Match | Refusal]:
        """One pass over the queue of a model. A match must be assigned before the next one is asked for.

        Where not every instance has every adapter, a request waits for its own and holds up nobody behind it.
        """
        put_back: list[TrackedRequest] = []
        passed_over = 0
        self._estimates.load = self._pd.load(model)
        while self._pd.available(model):
            began_s = time.perf_counter()
            tracked = queue.first(now_s)
            if tracked is None:
                break
            if tracked.request.adapter is not None and not self.has_place(tracked):
                if passed_over == MOST_PASSED_OVER:
                    break
                passed_over += 1
                queue.take(tracked, now_s)
                put_back.append(tracked)
                continue
            phase, candidates = self._pd.place(tracked, now_s)
            allowed = candidates and self.policy.among(tracked, candidates, now_s)
            if not allowed:
                break
            group = queue.first_group
            queue.take(tracked, now_s)
            instance = preferred(tracked, candidates) or self.router.choose(tracked, allowed)
            tariff = tariff_of(instance.info.price_per_hour, self._estimates.pace(model))
            self.decided_s += time.perf_counter() - began_s
            try:
                request = within_budget(tracked.request, tracked.prompt_tokens, tariff)
            except BudgetExceeded as error:
                if instance.info.price_per_hour > self._estimates.lowest_price(tracked):
                    put_back.append(tracked)  # what could only have run here waits for a cheaper place
                else:
                    yield Refusal(tracked, error)
                continue
            yield Match(tracked, instance, phase, group, request, tariff, self.policy.paced)
        for tracked in put_back:
            queue.push(tracked, now_s)
