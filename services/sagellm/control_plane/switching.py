"""Switching the policy of the scheduler that leads, from code that does not wait."""

import asyncio
import logging

from sagellm.management import Management
from sagellm_schemas import PolicyView, SageError, SwitchOrder, Unavailable, subjects

logger = logging.getLogger(__name__)

PAUSE_S = 0.1
PATIENCE_S = 5.0


class Switching:
    """Orders the leading scheduler to use another policy, one order after the other."""

    def __init__(self, management: Management) -> None:
        self._management = management
        self._latest: asyncio.Task[None] | None = None

    def order(self, order: SwitchOrder) -> None:
        """Send `order`, and again while no scheduler leads."""
        self._latest = asyncio.create_task(self._follow(self._latest, order), name="policy switch")

    async def done(self) -> None:
        """Wait until what was ordered so far has come into force, or for a few seconds: no scheduler may lead."""
        if self._latest is not None:
            await asyncio.wait([self._latest], timeout=PATIENCE_S)

    async def close(self) -> None:
        """Give up what has not come into force."""
        if self._latest is not None:
            self._latest.cancel()
            await asyncio.wait([self._latest])

    async def _follow(self, before: asyncio.Task[None] | None, order: SwitchOrder) -> None:
        if before is not None:
            await before
        while True:
            try:
                await self._management.ask(subjects.MANAGE_SWITCH, order, PolicyView)
                return
            except Unavailable:
                await asyncio.sleep(PAUSE_S)
            except SageError as error:
                logger.error("the policy was not switched: %s", error)
                return
