"""The leader lease: one key that only its holder can renew."""

import asyncio
import logging
import time
from collections.abc import Callable

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from sagellm_schemas import Lease, encode

logger = logging.getLogger(__name__)

KEY = "scheduler"


class LeaseLost(Exception):
    """Another scheduler may lead from now on."""


class LeaderLease:
    """Who leads, by compare-and-set on one key.

    A holder counts its time from before it asked for each renewal, so it stops trusting its lease before anyone
    else may take it. A candidate takes the key when it is absent, or when it has not changed for a whole TTL by
    the candidate's own clock, so that it depends on no clock of the server.
    """

    def __init__(self, bucket: KeyValue, holder: str, ttl_s: float) -> None:
        self._bucket = bucket
        self._ttl_s = ttl_s
        self._holder = holder
        self._value = b""
        self._revision = 0
        self._valid_until_s = 0.0
        self.silent_s = 0.0
        """While this process waits in `acquire`: for how long the holder has not renewed it."""

    @property
    def valid(self) -> bool:
        """Whether this process leads, certainly, at this moment."""
        return time.monotonic() < self._valid_until_s

    async def acquire(self) -> None:
        """Wait until this process leads."""
        seen_revision, seen_s = 0, 0.0
        self.silent_s = 0.0
        self._value = encode(Lease(holder=self._holder, term=0))
        while True:
            asked_s = time.monotonic()
            try:
                entry = await self._entry()
                if entry is None:
                    self._won(await self._bucket.create(KEY, self._value), asked_s)
                    return
                revision = entry.revision or 0
                if revision != seen_revision:
                    seen_revision, seen_s = revision, time.monotonic()
                self.silent_s = max(0.0, asked_s - seen_s)
                if self.silent_s > self._ttl_s:
                    self._won(await self._bucket.update(KEY, self._value, last=revision), asked_s)
                    return
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                pass  # another was first, or NATS is away: try again
            await asyncio.sleep(self._ttl_s / 10)

    async def keep(self, renewed: Callable[[], None]) -> None:
        """Renew for as long as possible, calling `renewed` each time.

        Raises:
            LeaseLost: it could not be renewed in time, or somebody else has it.
        """
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            asked_s = time.monotonic()
            left_s = self._valid_until_s - asked_s
            if left_s <= 0:
                raise LeaseLost("it could not be renewed in time")
            try:
                async with asyncio.timeout(left_s):
                    self._won(await self._bucket.update(KEY, self._value, last=self._revision), asked_s)
            except nats.js.errors.KeyWrongLastSequenceError:
                self._valid_until_s = 0.0
                raise LeaseLost("another scheduler has it") from None
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                continue
            renewed()

    async def release(self) -> None:
        """Give it up, so that a standby need not wait; silently nothing if it is not ours."""
        if self.valid:
            self._valid_until_s = 0.0
            try:
                await self._bucket.delete(KEY, last=self._revision)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.debug("the lease could not be given up: %s", error)

    def name_term(self, term: int) -> None:
        """Say in the next renewals which term this is, for whoever looks."""
        self._value = encode(Lease(holder=self._holder, term=term))

    async def _entry(self) -> KeyValue.Entry | None:
        try:
            return await self._bucket.get(KEY)
        except nats.js.errors.KeyNotFoundError:
            return None

    def _won(self, revision: int, asked_s: float) -> None:
        self._revision = revision
        self._valid_until_s = asked_s + self._ttl_s
