"""Looking ahead over the queues, a piece at a time: in between the leader dispatches and renews its lease."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from math import ceil

from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.forecast import Estimate, Places
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.pd import PdRouter
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm_schemas import ModelQueue, RequestStatus

from .explain import obstacle

PIECE = 100
"""Requests that are looked at in one turn of the event loop: about two milliseconds."""

SAMPLE = 64
"""So many of the first in a queue stand for the others where its whole length would take too long."""

MOST_RUNNING = 4096
"""Of more running requests every second, third and so on is looked at, and stands for those between."""


class Outlook:
    """What is ahead of the requests of one model, as things stood when it was made; `begin` it first.

    `obstacle` is what holds up every request of the model; see `explain.obstacle`.
    """

    def __init__(
        self,
        model: str,
        dispatcher: Dispatcher,
        table: RequestTable,
        instances: Instances,
        pd: PdRouter,
        estimates: Estimates,
    ) -> None:
        self._model = model
        self._dispatcher = dispatcher
        self._table = table
        self._instances = instances
        self._pd = pd
        self._estimates = estimates
        self._now_s = time.time()
        self._places = Places(instances.serving(model), estimates, self._now_s)
        self._order: Iterator[tuple[int, TrackedRequest]] = iter(())
        self._first: list[Estimate] = []
        self.obstacle = ""

    async def begin(self) -> None:
        """Look at what runs, and at the first of the queue."""
        await self._look_at_running()
        self.obstacle = obstacle(
            self._model,
            self._instances.serving(self._model),
            room=self._pd.available(self._model),
            next_free_s=self._places.next_free_s() - self._now_s if self._places else None,
        )
        self._order = enumerate(self._dispatcher.waiting(self._model), 1)
        for position, request in self._order:
            self._first.append(self._estimate(position, request))
            if position == SAMPLE:
                break

    def obstacle_of(self, request: TrackedRequest) -> str:
        """What holds up this request: `obstacle`, or where it can run with its adapter."""
        adapter = request.request.adapter
        if adapter is None or self.obstacle:
            return self.obstacle
        having = [i for i in self._instances.serving(self._model) if adapter in i.info.adapters]
        if not having:
            return f"no instance of {self._model!r} has the adapter {adapter!r}"
        found = obstacle(self._model, having, room=self._pd.available(self._model, adapter), next_free_s=None)
        return found and f"of those with the adapter {adapter!r} {found}"

    def held_back(self, request: TrackedRequest) -> bool:
        """Whether there is room now, but not where the policy lets `request` run."""
        adapter = request.request.adapter
        found = self._instances.with_credit(self._model, Phase.WHOLE, adapter)
        candidates = found or self._instances.with_credit(self._model, Phase.PREFILL, adapter)
        return bool(candidates) and not self._dispatcher.policy.among(request, candidates, time.time())

    def summary(self) -> ModelQueue:
        """How the queue stands; to be asked before `ahead`. Of a long one the first requests stand for all."""
        waiting = self._dispatcher.lengths().get(self._model, 0)
        serving = self._instances.serving(self._model)
        open_ones = [instance for instance in serving if instance.ready]
        return ModelQueue(
            model=self._model,
            waiting=waiting,
            running=sum(len(instance.assigned) for instance in serving),
            credits=sum(instance.capacity for instance in open_ones),
            instances=len(serving),
            expected_wait_s=self._expected_wait_s(waiting, len(open_ones)),
            obstacle=self.obstacle if waiting else "",
        )

    async def ahead(self) -> AsyncGenerator[Estimate, None]:
        """The waiting requests in the order of service, with what is predicted of each. Once only.

        Those that have left the queue meanwhile are passed over.
        """
        for estimate in self._first:
            if self._still_waits(estimate.request):
                yield estimate
        for position, request in self._order:
            if not position % PIECE:
                await asyncio.sleep(0)
            estimate = self._estimate(position, request)
            if self._still_waits(request):
                yield estimate

    def _estimate(self, position: int, request: TrackedRequest) -> Estimate:
        if not self._places:
            return Estimate(request, position)
        return Estimate(request, position, *self._places.take(request))

    def _still_waits(self, request: TrackedRequest) -> bool:
        return request.status is RequestStatus.QUEUED and self._table.holds(request)

    def _expected_wait_s(self, waiting: int, instances: int) -> float | None:
        if not self._places or not instances:
            return None
        looked_at = len(self._first)
        work_s = sum(self._estimates.work_s(estimate.request) for estimate in self._first)
        rest_s = max(0, waiting - looked_at) * work_s / looked_at / instances if looked_at else 0.0
        return max(0.0, self._places.next_free_s() - self._now_s) + rest_s

    async def _look_at_running(self) -> None:
        serving = list(self._instances.serving(self._model))
        every = max(1, ceil(sum(len(instance.assigned) for instance in serving) / MOST_RUNNING))
        looked_at = 0
        for instance in serving:
            ids = list(instance.assigned)
            for first in range(0, len(ids), every):
                looked_at += 1
                if not looked_at % PIECE:
                    await asyncio.sleep(0)
                request = self._table.get(ids[first])
                if request is not None and request.instance == instance.id:
                    times = min(every, len(ids) - first)
                    self._places.runs(request, time.monotonic() - request.dispatched_s, times)
