"""Orders that outlive the leader who took them: the switch of policy and routing, closed instances, servers."""

import logging
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from sagellm.broker import read_bucket
from sagellm.scheduler.instances import Instance
from sagellm_schemas import JSON, Codec, InvalidRequest, Registration, encode, subjects

logger = logging.getLogger(__name__)

SWITCH_KEY = "policy"
INSTANCE = "instance."
SERVER = "server."

FORGOTTEN_AFTER_S = 86_400.0
"""An order to close an instance that no leader has seen for longer is dropped: its id will not come back."""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's choice against the settings; None is as the setting says. `at_s` is in Unix seconds."""

    policy: str | None = None
    routing: str | None = None
    at_s: float = 0.0


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is to get no more work, why, and since when (Unix seconds)."""

    reason: str
    at_s: float


class KeptOrders:
    """The orders bucket and what is in it. Every change is stored before it counts.

    All that store raise nats.errors.Error, nats.js.errors.Error or TimeoutError where NATS does not take it.
    """

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        self._js = js
        self._bucket = bucket
        self._switches, self._closures = Codec(Switch), Codec(Closed)
        self._registrations = Codec(Registration)
        self._closed: dict[str, Closed] = {}
        self._servers: dict[str, Registration] = {}
        self._seen_s: dict[str, float] = {}
        self.switch = Switch()

    @property
    def servers(self) -> Mapping[str, Registration]:
        """The registered servers, by id."""
        return MappingProxyType(self._servers)

    async def load(self) -> None:
        """Learn what was ordered under the leaders before."""
        self.switch = Switch()
        self._closed.clear()
        self._servers.clear()
        for key, value in (await read_bucket(self._js, subjects.ORDERS_BUCKET)).items():
            try:
                self._learn(key, value)
            except InvalidRequest as error:
                logger.warning("the order %s cannot be read, it is left out: %s", key, error)

    def _learn(self, key: str, value: bytes) -> None:
        if key == SWITCH_KEY:
            self.switch = self._switches.decode(value)
        elif key.startswith(INSTANCE):
            self._closed[key[len(INSTANCE) :]] = self._closures.decode(value)
            self._seen_s[key[len(INSTANCE) :]] = time.monotonic()
        elif key.startswith(SERVER):
            self._servers[key[len(SERVER) :]] = self._registrations.decode(value)

    async def use(self, switch: Switch) -> None:
        """Keep which policy and routing are to be used."""
        await self._bucket.put(SWITCH_KEY, encode(switch, JSON))
        self.switch = switch

    def apply(self, instances: Iterable[Instance]) -> None:
        """Close those that are to be closed, open the others."""
        for instance in instances:
            closed = self._closed.get(instance.id)
            instance.closed = "" if closed is None else closed.reason
            if closed is not None:
                self._seen_s[instance.id] = time.monotonic()

    async def close(self, instance: Instance, reason: str) -> None:
        """Send an instance no more work; and forget those closed before that are long gone."""
        closed = Closed(reason=reason, at_s=time.time())
        await self._bucket.put(INSTANCE + instance.id, encode(closed, JSON))
        self._closed[instance.id] = closed
        self.apply((instance,))
        for instance_id in list(self._closed):
            if time.monotonic() - self._seen_s[instance_id] > FORGOTTEN_AFTER_S:
                await self._forget_closed(instance_id)

    async def open(self, instance: Instance) -> None:
        """Send it work again."""
        if instance.id in self._closed:
            await self._forget_closed(instance.id)
        instance.closed = ""

    async def register(self, registration: Registration) -> None:
        """Have a server served, or served otherwise than before."""
        await self._bucket.put(SERVER + registration.id, encode(registration, JSON))
        self._servers[registration.id] = registration

    async def unregister(self, server_id: str) -> None:
        """Have it served no more."""
        await self._bucket.delete(SERVER + server_id)
        self._servers.pop(server_id, None)

    async def _forget_closed(self, instance_id: str) -> None:
        await self._bucket.delete(INSTANCE + instance_id)
        self._closed.pop(instance_id, None)
        self._seen_s.pop(instance_id, None)
