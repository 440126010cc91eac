"""The questions of operators, answered from what the leader knows. Nothing here changes anything."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import nats.errors

from sagellm.broker import Client
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.forecast import Estimate
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.pd import PdRouter
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm_schemas import (
    Codec,
    HeldQuery,
    HeldReply,
    InstancesPage,
    InstancesQuery,
    InvalidRequest,
    NotFound,
    PolicyQuery,
    PolicyView,
    QueuePage,
    QueueQuery,
    RequestPriority,
    RequestQuery,
    RequestsPage,
    RequestsQuery,
    RequestStatus,
    RequestView,
    Unavailable,
    encode,
    subjects,
)

from .explain import TAKING_OVER, why_pending, why_waiting
from .in_use import InUse
from .kept_orders import KeptOrders
from .outlook import Outlook
from .views import view_instance, view_request

MAX_LIMIT = 1000
MOST_WALKED = 20_000
"""So far into the queues a question goes. What is further back has no position: it would change at once."""

SCANNED_AT_ONCE = 2000
READER_TIMEOUT_S = 0.5
RETRY_AFTER_S = 1.0


class Queries:
    """One method for each question.

    Looking ahead is done for one question at a time, so that many askers slow each other and not the leader.
    """

    def __init__(
        self,
        nc: Client,
        table: RequestTable,
        dispatcher: Dispatcher,
        instances: Instances,
        pd: PdRouter,
        estimates: Estimates,
        in_use: InUse,
        kept: KeptOrders,
        is_open: Callable[[], bool],
        is_replaying: Callable[[], bool],
    ) -> None:
        self._nc = nc
        self._table = table
        self._dispatcher = dispatcher
        self._instances = instances
        self._pd = pd
        self._estimates = estimates
        self._in_use = in_use
        self._kept = kept
        self._is_open = is_open
        self._is_replaying = is_replaying
        self._held = Codec(HeldReply)
        self._looking_ahead = asyncio.Lock()

    async def queue(self, query: QueueQuery) -> QueuePage:
        """A page of the queue."""
        self._check_that_all_is_known()
        _check_page(query.limit, query.offset, MOST_WALKED)
        async with self._looking_ahead:
            return await self._queue(query)

    async def _queue(self, query: QueueQuery) -> QueuePage:
        wanted = _filter(query.user_id, query.priority)
        lengths = self._dispatcher.lengths()
        serving = {instance.info.model for instance in self._instances.all()}
        names = [query.model] if query.model else sorted(serving | {name for name, n in lengths.items() if n})
        outlooks = [self._outlook(name) for name in names]
        for outlook in outlooks:
            await outlook.begin()
        models = [outlook.summary() for outlook in outlooks]
        found: list[RequestView] = []
        matching, more = 0, False
        async with aclosing(self._walk(outlooks)) as walk:
            async for step in walk:
                if step is None:
                    more = True
                    break
                outlook, estimate = step
                if not wanted(estimate.request):
                    continue
                if len(found) == query.limit:
                    more = True
                    break
                matching += 1
                if matching > query.offset:
                    reason = self._reason(outlook, estimate.request, estimate.position)
                    found.append(view_request(estimate.request, reason=reason, estimate=estimate))
        total = sum(lengths.get(name, 0) for name in names) if wanted is _anything else None
        return QueuePage(
            taken_at=time.time(),
            policy=self._in_use.policy.name,
            requests=found,
            models=models,
            total=total if total is not None or more else matching,
            more=more,
        )

    async def _walk(self, outlooks: list[Outlook]) -> AsyncGenerator[tuple[Outlook, Estimate] | None, None]:
        """Through the queues of these models; None in the end where it went no further."""
        walked = 0
        for outlook in outlooks:
            async with aclosing(outlook.ahead()) as ahead:
                async for estimate in ahead:
                    if walked == MOST_WALKED:
                        yield None
                        return
                    walked += 1
                    yield outlook, estimate

    def _reason(self, outlook: Outlook, request: TrackedRequest, position: int | None) -> str:
        if not self._is_open():
            return TAKING_OVER
        held_back = position == 1 and outlook.held_back(request)
        return why_waiting(
            request, position, outlook.obstacle_of(request), self._in_use.policy, time.time(), held_back=held_back
        )

    async def request(self, query: RequestQuery) -> RequestView:
        """One request: its place in the queue is looked for, or its reader asked how far it has come."""
        return await self.look_at(self.find(query.id))

    async def look_at(self, request: TrackedRequest) -> RequestView:
        """As `request`, of one that has been found."""
        if request.status is RequestStatus.RUNNING:
            return view_request(request, output_tokens=await self._tokens_held(request))
        if request.status is not RequestStatus.QUEUED:
            return view_request(request, reason=why_pending(request), output_tokens=len(request.resume_token_ids))
        async with self._looking_ahead:
            return await self._waiting(request)

    async def _waiting(self, request: TrackedRequest) -> RequestView:
        outlook = self._outlook(request.request.model)
        await outlook.begin()
        found: Estimate | None = None
        async with aclosing(outlook.ahead()) as ahead:
            async for estimate in ahead:
                if estimate.request is request:
                    found = estimate
                if found is not None or estimate.position >= MOST_WALKED:
                    break
        if request.status is not RequestStatus.QUEUED:  # dispatched meanwhile
            return view_request(request)
        reason = self._reason(outlook, request, found.position if found else None)
        return view_request(request, reason=reason, estimate=found, output_tokens=len(request.resume_token_ids))

    async def requests(self, query: RequestsQuery) -> RequestsPage:
        """A page of all requests that have not ended."""
        self._check_that_all_is_known()
        _check_page(query.limit, query.offset, None)
        wanted = _filter(query.user_id, query.priority)
        among = self._of_instance(query.instance) if query.instance else self._table.all()
        found: list[TrackedRequest] = []
        matching = 0
        for place, request in enumerate(among):
            if not place % SCANNED_AT_ONCE:
                await asyncio.sleep(0)
            if (
                (query.status is None or request.status is query.status)
                and (not query.model or request.request.model == query.model)
                and wanted(request)
            ):
                matching += 1
                if matching > query.offset and len(found) < query.limit:
                    found.append(request)
        views = [view_request(request) for request in found]
        return RequestsPage(taken_at=time.time(), requests=views, total=matching)

    async def instances(self, query: InstancesQuery) -> InstancesPage:
        """The instances and the registered servers."""
        if query.id:
            found = [self.instance(query.id)]
        else:
            found = [i for i in self._instances.all() if not query.model or i.info.model == query.model]
        found.sort(key=lambda instance: (instance.info.model, instance.id))
        return InstancesPage(
            taken_at=time.time(),
            instances=[view_instance(instance) for instance in found],
            servers=sorted(self._kept.servers.values(), key=lambda server: server.id),
        )

    async def policy(self, query: PolicyQuery) -> PolicyView:
        """Policy and routing."""
        return self._in_use.view()

    def find(self, request_id: str) -> TrackedRequest:
        """The request of that id.

        Raises:
            NotFound: there is none that has not ended.
            Unavailable: not everything is known yet.
        """
        request = self._table.get(request_id)
        if request is None and self._is_replaying():
            raise Unavailable(TAKING_OVER, retry_after_s=RETRY_AFTER_S)
        if request is None:
            raise NotFound(
                f"there is no request {request_id[:100]!r}: it has ended, or never came; "
                "`sagellm requests` lists those there are",
                param="id",
            )
        return request

    def instance(self, instance_id: str) -> Instance:
        """The instance of that id.

        Raises:
            NotFound: there is none.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            raise NotFound(
                f"there is no instance {instance_id[:100]!r}; `sagellm instances` lists those there are",
                param="id",
            )
        return instance

    def _check_that_all_is_known(self) -> None:
        """
        Raises:
            Unavailable: not the whole queue has been read yet.
        """
        if self._is_replaying() and not self._is_open():
            raise Unavailable(TAKING_OVER, retry_after_s=RETRY_AFTER_S)

    def _outlook(self, model: str) -> Outlook:
        return Outlook(model, self._dispatcher, self._table, self._instances, self._pd, self._estimates)

    def _of_instance(self, instance_id: str) -> list[TrackedRequest]:
        """What runs there, in order of arrival."""
        running = [self._table.get(request_id) for request_id in self.instance(instance_id).assigned]
        return sorted((request for request in running if request), key=lambda request: request.sequence)

    async def _tokens_held(self, request: TrackedRequest) -> int | None:
        """How many tokens the reader of a running request has; it drops older attempts then, as it may."""
        owner = subjects.owner_of(request.request.reply_to)
        if owner is None or not request.request.stream:
            return None  # a reader that wants all at once has nothing before the end
        question = encode(HeldQuery(attempts={request.id: request.attempt}))
        try:
            reply = await self._nc.request(subjects.held(owner), question, timeout=READER_TIMEOUT_S)
            held = self._held.decode(reply.data).held.get(request.id)
        except (nats.errors.Error, TimeoutError, InvalidRequest):
            return None
        return None if held is None else len(held.token_ids)


def _anything(_request: TrackedRequest) -> bool:
    return True


def _filter(user_id: str | None, priority: int | str | None) -> Callable[[TrackedRequest], bool]:
    if user_id is None and priority is None:
        return _anything
    level = None if priority is None else RequestPriority.parse(priority)

    def wanted(request: TrackedRequest) -> bool:
        return (level is None or request.priority == level) and (
            user_id is None or request.request.user_id == user_id
        )

    return wanted


def _check_page(limit: int, offset: int, last: int | None) -> None:
    """
    Raises:
        InvalidRequest: there is no such page.
    """
    if not 0 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit must be 0 to {MAX_LIMIT}; got {limit}", param="limit")
    if offset < 0 or (last is not None and offset >= last):
        most = "" if last is None else f", and less than {last}: what is further back changes places all the time"
        raise InvalidRequest(f"offset must be at least 0{most}; got {offset}", param="offset")
