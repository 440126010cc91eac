"""What a policy counts (fairness) outlives its leader: kept in NATS, restored at the takeover."""

import asyncio
import logging
from collections.abc import Callable
from heapq import nlargest

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from sagellm.scheduler.policies import Policy
from sagellm_schemas import Codec, InvalidRequest, encode, subjects

logger = logging.getLogger(__name__)

PREFIX = "policy."
INTERVAL_S = 0.5
MAX_COUNTERS = 10_000


class PolicyState:
    """One entry for each policy in the attempts bucket. A takeover loses at most `INTERVAL_S` of counting."""

    def __init__(self, bucket: KeyValue, policy: Callable[[], Policy]) -> None:
        self._bucket = bucket
        self._policy = policy
        self._codec = Codec(dict[str, float])
        self._kept: tuple[str, dict[str, float]] | None = None

    async def restore(self, policy: Policy) -> None:
        """Give `policy` what was kept last of one of its name."""
        try:
            entry = await self._bucket.get(_key(policy))
            policy.restore(self._codec.decode(entry.value or b""))
        except nats.js.errors.KeyNotFoundError:
            return
        except InvalidRequest as error:
            logger.warning("the kept state of policy %s cannot be read, it begins anew: %s", policy.name, error)

    async def run(self) -> None:
        """Keep the policy's state whenever it has changed, for as long as this leader leads."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.keep()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("the state of policy %s cannot be kept yet: %s", self._policy().name, error)

    async def keep(self) -> None:
        """Keep the policy's state, if it has changed.

        Raises:
            nats.errors.Error, nats.js.errors.Error, TimeoutError: NATS does not take it.
        """
        policy = self._policy()
        state = policy.state()
        if len(state) > MAX_COUNTERS:
            state = dict(nlargest(MAX_COUNTERS, state.items(), key=lambda counter: counter[1]))
        if state and self._kept != (policy.name, state):
            await self._bucket.put(_key(policy), encode(state))
            self._kept = policy.name, dict(state)


def _key(policy: Policy) -> str:
    return PREFIX + subjects.token(policy.name)
