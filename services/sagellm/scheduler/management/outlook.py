"""Looking ahead over the queues, a piece at a time: in between the leader dispatches and renews its lease."""

import asyncio
import time
from collections.abc import AsyncGenerator

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


class Outlook:
    """What is ahead of the requests of one model, as things stand now."""

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

    async def obstacle(self) -> str:
        """What holds up every request of the model; see `explain.obstacle`."""
        now_s = time.time()
        places = await self._places(now_s)
        return obstacle(
            self._model,
            self._instances.serving(self._model),
            room=self._pd.available(self._model),
            next_free_s=places.next_free_s() - now_s if places else None,
        )

    def held_back(self, request: TrackedRequest) -> bool:
        """Whether there is room now, but not where the policy lets `request` run."""
        found = self._instances.with_credit(self._model, Phase.WHOLE)
        candidates = found or self._instances.with_credit(self._model, Phase.PREFILL)
        return bool(candidates) and not self._dispatcher.policy.among(request, candidates, time.time())

    async def ahead(self) -> AsyncGenerator[Estimate, None]:
        """The waiting requests in the order of service, with what is predicted of each.

        Those that have left the queue since the first are passed over.
        """
        places = await self._places(time.time())
        for position, request in enumerate(self._dispatcher.waiting(self._model), 1):
            if not position % PIECE:
                await asyncio.sleep(0)
            estimate = (
                Estimate(request, position, *places.take(request)) if places else Estimate(request, position)
            )
            if request.status is RequestStatus.QUEUED and self._table.holds(request):
                yield estimate

    async def summary(self, in_the_way: str) -> ModelQueue:
        """How the queue stands, with its `obstacle`. Of a long one the first requests stand for all."""
        waiting = self._dispatcher.lengths().get(self._model, 0)
        open_ones = [instance for instance in self._instances.serving(self._model) if instance.ready]
        return ModelQueue(
            model=self._model,
            waiting=waiting,
            running=sum(len(instance.assigned) for instance in self._instances.serving(self._model)),
            credits=sum(instance.capacity for instance in open_ones),
            instances=len(self._instances.serving(self._model)),
            expected_wait_s=await self._expected_wait_s(waiting, len(open_ones)),
            obstacle=in_the_way if waiting else "",
        )

    async def _expected_wait_s(self, waiting: int, instances: int) -> float | None:
        now_s = time.time()
        if not instances:
            return None
        places = await self._places(now_s)
        work_s, taken = 0.0, 0
        for request in self._dispatcher.waiting(self._model):
            places.take(request)
            work_s += self._estimates.work_s(request)
            taken += 1
            if taken == SAMPLE:
                break
        rest = max(0, waiting - taken)
        rest_s = rest * work_s / taken / instances if taken else 0.0
        return max(0.0, places.next_free_s() - now_s) + rest_s

    async def _places(self, now_s: float) -> Places:
        """The credits of the model, with what runs on them told."""
        places = Places(self._instances.serving(self._model), self._estimates, now_s)
        looked_at = 0
        for instance in list(self._instances.serving(self._model)):
            for request_id in list(instance.assigned):
                looked_at += 1
                if not looked_at % PIECE:
                    await asyncio.sleep(0)
                request = self._table.get(request_id)
                if request is not None and request.instance == instance.id:
                    places.runs(request, time.monotonic() - request.dispatched_s)
        return places
