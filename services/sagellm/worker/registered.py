"""Servers that operators have registered: one worker process serves each, beside its own engine."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors

from sagellm.broker import Connection, Message, read_bucket
from sagellm.broker.topology import CLAIM_TTL_S
from sagellm.settings import Settings
from sagellm_schemas import Codec, InstanceRole, InvalidRequest, Registration, SageError, subjects

from .claim import Claim, ClaimLost

logger = logging.getLogger(__name__)

KEY = "server."
CHANGES = f"$KV.{subjects.ORDERS_BUCKET}.{KEY}>"

LOOK_EVERY_S = CLAIM_TTL_S / 2
READ_EVERY_S = 30.0
"""How often the registrations are read although nothing was heard: a message may have been missed."""

MODEST_S = 0.1
"""So much later a process claims a server for each one that it serves already: others may have less to do."""

RETRY_S = 10.0

Serve = Callable[[Settings, str, asyncio.Event], Awaitable[None]]


@dataclass(eq=False)
class _Hosted:
    registration: Registration
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class RegisteredServers:
    """Claims registered servers and serves them with engine vllm, each as an instance of its own.

    `serve` runs a worker with the given settings for the server of that id until the event is set. A claim moves
    to another process when this one dies, and when a server cannot be served from here.
    """

    def __init__(self, settings: Settings, connection: Connection, serve: Serve) -> None:
        self._settings = settings
        self._connection = connection
        self._serve = serve
        self._name = f"{settings.instance_id or 'worker'}-{secrets.token_hex(4)}"
        self._codec = Codec(Registration)
        self._known: dict[str, Registration] = {}
        self._hosted: dict[str, _Hosted] = {}
        self._not_before_s: dict[str, float] = {}
        self._heard = asyncio.Event()
        self._heard.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve what is registered until `stop` is set; then drain and give up the claims."""
        loop = asyncio.get_running_loop()
        self._connection.on_reconnect(self._on_reconnect)
        read_s = 0.0
        async with self._connection.nc.handling(CHANGES, self._on_change):
            stopping = asyncio.create_task(stop.wait(), name="stop of registered servers")
            try:
                while not stop.is_set():
                    try:
                        if self._heard.is_set() or loop.time() - read_s > READ_EVERY_S:
                            self._heard.clear()
                            read_s = loop.time()
                            await self._read()
                        await self._claim_free_ones()
                    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                        logger.warning("registered servers cannot be read: %s", str(error) or type(error).__name__)
                        self._heard.set()
                        await asyncio.wait([stopping], timeout=LOOK_EVERY_S)
                        continue
                    heard = asyncio.create_task(self._heard.wait(), name="registrations")
                    await asyncio.wait(
                        [heard, stopping], timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    heard.cancel()
            finally:
                stopping.cancel()
                await self._stop_all()

    async def _read(self) -> None:
        """Learn what is registered; stop what is no more, or otherwise."""
        found: dict[str, Registration] = {}
        for key, value in (await read_bucket(self._connection.js, subjects.ORDERS_BUCKET)).items():
            if key.startswith(KEY):
                try:
                    found[key[len(KEY) :]] = self._codec.decode(value)
                except InvalidRequest as error:
                    logger.warning("the registration of server %s cannot be read: %s", key, error)
        self._known = found
        for server_id, hosted in self._hosted.items():
            if found.get(server_id) != hosted.registration:
                hosted.stop.set()

    async def _claim_free_ones(self) -> None:
        loop = asyncio.get_running_loop()
        for server_id, registration in list(self._known.items()):
            if server_id in self._hosted or loop.time() < self._not_before_s.get(server_id, 0.0):
                continue
            await asyncio.sleep(MODEST_S * (len(self._hosted) + random.random()))
            bucket = await self._connection.js.key_value(subjects.CLAIMS_BUCKET)
            claim = Claim(bucket, server_id, self._name, CLAIM_TTL_S)
            if await claim.take():
                hosted = self._hosted[server_id] = _Hosted(registration)
                hosted.task = asyncio.create_task(self._host(hosted, claim), name=f"server {server_id}")

    async def _host(self, hosted: _Hosted, claim: Claim) -> None:
        """Serve one server until it is to stop, cannot be served, or the claim is lost."""
        server = hosted.registration
        logger.info("serving the registered server %s at %s", server.id, server.url)
        serving = asyncio.ensure_future(self._serve(self._settings_for(server), server.id, hosted.stop))
        keeping = asyncio.create_task(claim.keep(), name=f"claim on {server.id}")
        try:
            await asyncio.wait([serving, keeping], return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                logger.warning("the claim on server %s is lost, others may serve it", server.id)
                hosted.stop.set()
            await serving
        except SageError as error:
            logger.error("the registered server %s cannot be served: %s", server.id, error)
        except Exception:
            logger.exception("serving the registered server %s failed", server.id)
        finally:
            for task in (serving, keeping):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClaimLost):
                await keeping
            await claim.release()
            del self._hosted[server.id]
            if not hosted.stop.is_set():
                self._not_before_s[server.id] = asyncio.get_running_loop().time() + RETRY_S
            self._heard.set()

    def _settings_for(self, server: Registration) -> Settings:
        given = {
            "served_name": server.model or None,
            "max_num_seqs": server.max_concurrent_requests,
            "max_model_len": server.max_model_len,
            "price_per_hour": server.price_per_hour,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        fixed: dict[str, object] = {
            "adapters": {},
            "engine": "vllm",
            "vllm_url": server.url,
            "served_name": None,
            "instance_id": server.id,
            "role": InstanceRole.GENERAL,
            "price_per_hour": 0.0,
            "metrics_port": None,
        }
        return self._settings.model_copy(update=fixed | changes)

    async def _stop_all(self) -> None:
        hosted = list(self._hosted.values())
        for one in hosted:
            one.stop.set()
        tasks = [one.task for one in hosted if one.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def _on_change(self, _message: Message) -> None:
        self._heard.set()

    async def _on_reconnect(self) -> None:
        self._heard.set()
