"""The orders of operators: what they change at once, and what they leave for the next leader."""

import asyncio
import hashlib
import math
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
import nats.errors
import nats.js.errors
from msgspec import UNSET

from sagellm.broker import Client, Sender
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.dispatcher import Dispatcher
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.policy_state import PolicyState
from sagellm.scheduler.requests import Changes, RequestTable, TrackedRequest
from sagellm_schemas import (
    Cancel,
    CancelAnswer,
    CancelledRequest,
    CancelOrder,
    ChangeOrder,
    Codec,
    Control,
    InstanceChanged,
    InstanceOrder,
    InstanceReport,
    InvalidRequest,
    PolicyView,
    Registration,
    RequestChanged,
    RequestPriority,
    RequestStatus,
    SwitchOrder,
    Unavailable,
    encode,
    subjects,
)

from .in_use import InUse
from .kept_orders import KeptOrders
from .queries import Queries
from .views import view_instance

MOST_CANCELLED = 10_000
MAX_REASON_CHARACTERS = 200
MAX_URL_CHARACTERS = 1000
CLOSED = "closed by an operator"


class Orders:
    """One method for each order. All raise `SageError` where it cannot be followed."""

    def __init__(
        self,
        nc: Client,
        sender: Sender,
        table: RequestTable,
        attempts: Attempts,
        dispatcher: Dispatcher,
        instances: Instances,
        policy_state: PolicyState,
        in_use: InUse,
        kept: KeptOrders,
        queries: Queries,
        cancel: Callable[[str], None],
        term: int,
        control_timeout_s: float,
    ) -> None:
        self._nc = nc
        self._sender = sender
        self._table = table
        self._attempts = attempts
        self._dispatcher = dispatcher
        self._instances = instances
        self._policy_state = policy_state
        self._in_use = in_use
        self._kept = kept
        self._queries = queries
        self._cancel = cancel
        self._term = term
        self._control_timeout_s = control_timeout_s
        self._reports = Codec(InstanceReport)
        self._switching = asyncio.Lock()

    async def change(self, order: ChangeOrder) -> RequestChanged:
        """Another priority or deadline."""
        changes = _changes(order)
        request = self._queries.find(order.id)
        request.change(changes)
        if request.status is RequestStatus.QUEUED:
            self._dispatcher.changed(request)
        status = request.status
        await self._attempts.save(request)
        if not self._table.holds(request):
            self._attempts.forget(request.id)  # it has ended while its record was on the way
        view = await self._queries.look_at(request)
        return RequestChanged(request=view, effect=_effect(request, status))

    async def cancel(self, order: CancelOrder) -> CancelAnswer:
        """The end of requests, wherever they are."""
        if not 0 < len(order.ids) <= MOST_CANCELLED:
            raise InvalidRequest(f"give 1 to {MOST_CANCELLED} ids; got {len(order.ids)}", param="ids")
        cancelled, unknown = [], []
        for request_id in dict.fromkeys(order.ids):
            request = self._table.get(request_id)
            if request is None:
                unknown.append(request_id)
                continue
            running = request.status is RequestStatus.RUNNING
            cancelled.append(
                CancelledRequest(id=request_id, was=request.status, instance=request.instance if running else "")
            )
            self._cancel(request_id)
        # To workers, and to whoever leads next: also of requests that are still on their way to us.
        self._sender.send(subjects.CANCEL, encode(Cancel(ids=list(order.ids))))
        return CancelAnswer(cancelled=cancelled, unknown=unknown)

    async def instance(self, order: InstanceOrder) -> InstanceChanged:
        """Close, open or drain."""
        if len(order.reason) > MAX_REASON_CHARACTERS:
            raise InvalidRequest(f"a reason has at most {MAX_REASON_CHARACTERS} characters", param="reason")
        if order.action == "drain":
            return await self._drain(order.id)
        instance = self._queries.instance(order.id)
        if order.action == "close":
            await self._kept.close(instance, order.reason or CLOSED)
            effect = f"it is sent no more requests until it is opened; {_running(instance)}"
        else:
            await self._kept.open(instance)
            self._dispatcher.wake()
            effect = "it is sent requests again"
            if not instance.ready:
                effect = f"it is not closed any more, but its state is {instance.state}"
        return InstanceChanged(effect=effect, instance=view_instance(instance))

    async def _drain(self, name: str) -> InstanceChanged:
        server = self._kept.servers.get(name)
        if server is not None:
            leaving = [instance for instance in self._instances.all() if instance.info.server == name]
        else:
            leaving = [self._queries.instance(name)]
            server = self._kept.servers.get(leaving[0].info.server)
        effects = []
        if server is not None:
            await self._kept.unregister(server.id)
            who = "it" if server.id == name else f"server {server.id}"
            effects.append(f"{who} ({server.url}) is registered no more")
        for instance in leaving:
            await self._tell_to_leave(instance)
            who = "it" if instance.id == name else instance.id
            effects.append(f"{who} takes nothing new, finishes what it runs, and leaves; {_running(instance)}")
        return InstanceChanged(effect="; ".join(effects), instance=view_instance(leaving[0]) if leaving else None)

    async def _tell_to_leave(self, instance: Instance) -> None:
        order = encode(Control(term=self._term, drain=True, leave=True))
        try:
            await self._nc.request(subjects.control(instance.id), order, timeout=self._control_timeout_s)
        except (nats.errors.Error, TimeoutError):
            raise Unavailable(
                f"instance {instance.id} does not answer; if it has died, its requests go on elsewhere anyway"
            ) from None

    async def register(self, order: Registration) -> Registration:
        """A server that some worker process is to serve."""
        registration = _registration(order)
        if registration.id in self._kept.servers and self._kept.servers[registration.id].url != registration.url:
            raise InvalidRequest(
                f"the id {registration.id!r} is that of {self._kept.servers[registration.id].url}; choose another",
                param="id",
            )
        await self._kept.register(registration)
        return registration

    async def switch(self, order: SwitchOrder) -> PolicyView:
        """Another policy or routing."""
        async with self._switching:
            kept = self._kept.switch
            policy, router, switch = self._in_use.chosen(
                kept.policy if order.policy is UNSET else order.policy,
                kept.routing if order.routing is UNSET else order.routing,
            )
            await self._kept.use(switch)
            if policy is not self._in_use.policy:
                await self._policy_state.keep()
                await self._policy_state.restore(policy)
                self._in_use.policy = policy
                self._dispatcher.use(policy)
            self._in_use.router = router
            self._dispatcher.route(router)
        return self._in_use.view()


def _changes(order: ChangeOrder) -> Changes:
    """
    Raises:
        InvalidRequest: a value is out of range, or nothing is to be changed.
    """
    priority = order.priority if order.priority is UNSET else RequestPriority.parse(order.priority).value
    changes = Changes(priority=priority, ttft_slo_ms=order.ttft_slo_ms, slo_deadline_ms=order.slo_deadline_ms)
    if not changes.given():
        raise InvalidRequest("give priority, ttft_slo_ms or slo_deadline_ms", param="priority")
    for name, value in changes.given().items():
        if name != "priority" and value is not None and not (math.isfinite(value) and value > 0):
            raise InvalidRequest(f"{name} must be a number greater than 0, or null; got {value}", param=name)
    return changes


def _effect(request: TrackedRequest, status: RequestStatus) -> str:
    if status is RequestStatus.RUNNING:
        return (
            f"it runs already, on {request.instance}, and goes on there; the change counts if it has to be "
            "dispatched again, and in the metrics"
        )
    if status is RequestStatus.QUEUED:
        return "it has a new place in the queue"
    return "it counts as soon as the request is back in the queue"


def _running(instance: Instance) -> str:
    count = len(instance.assigned)
    if not count:
        return "nothing runs there"
    return "1 request goes on there to its end" if count == 1 else f"{count} requests go on there to their ends"


def _registration(order: Registration) -> Registration:
    """`order`, checked, with an id.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    url = order.url.strip().rstrip("/").removesuffix("/v1")
    parts = urlsplit(url) if len(url) <= MAX_URL_CHARACTERS else urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(
            f"url must be the base URL of a server, http://host:port; got {url[:100]!r}", param="url"
        )
    if order.id and subjects.token(order.id) != order.id:
        raise InvalidRequest("id must consist of A-Z, a-z, 0-9, _ and -", param="id")
    for name in ("max_concurrent_requests", "max_model_len"):
        if (value := getattr(order, name)) is not None and value < 1:
            raise InvalidRequest(f"{name} must be at least 1; got {value}", param=name)
    price = order.price_per_hour
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise InvalidRequest(f"price_per_hour must be at least 0; got {price}", param="price_per_hour")
    made = f"{subjects.token(parts.hostname)}-{hashlib.sha256(f'{url} {order.model}'.encode()).hexdigest()[:6]}"
    return msgspec.structs.replace(order, url=url, id=order.id or made)
