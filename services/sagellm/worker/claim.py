"""A claim on something that one process at a time may do: a key that is gone unless its holder renews it."""

import asyncio
import time

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

RENEWALS_PER_TTL = 4


class ClaimLost(Exception):
    """Another process may have it from now on."""


class Claim:
    """One key of a bucket with a TTL of `ttl_s`."""

    def __init__(self, bucket: KeyValue, key: str, holder: str, ttl_s: float) -> None:
        self._bucket = bucket
        self._key = key
        self._value = holder.encode()
        self._ttl_s = ttl_s
        self._revision = 0
        self._valid_until_s = 0.0

    async def take(self) -> bool:
        """Whether it is ours now; not if another process holds it, or NATS does not say."""
        asked_s = time.monotonic()
        try:
            self._revision = await self._bucket.create(self._key, self._value)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            return False
        self._valid_until_s = asked_s + self._ttl_s
        return True

    async def keep(self) -> None:
        """Renew it for as long as possible.

        Raises:
            ClaimLost: it could not be renewed in time, or somebody else has it.
        """
        while True:
            await asyncio.sleep(self._ttl_s / RENEWALS_PER_TTL)
            asked_s = time.monotonic()
            left_s = self._valid_until_s - asked_s
            if left_s <= 0:
                raise ClaimLost(self._key)
            try:
                async with asyncio.timeout(left_s):
                    self._revision = await self._bucket.update(self._key, self._value, last=self._revision)
            except nats.js.errors.KeyWrongLastSequenceError:
                raise ClaimLost(self._key) from None
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                continue  # NATS is away: as long as the claim holds there is time to try again
            self._valid_until_s = asked_s + self._ttl_s

    async def release(self) -> None:
        """Give it up, if it is still ours."""
        try:
            await self._bucket.delete(self._key, last=self._revision)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            return  # it expires by itself
