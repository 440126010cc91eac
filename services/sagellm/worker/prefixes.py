"""What the worker makes known of its prefix cache: changes at every heartbeat, now and then all of it."""

import asyncio
from collections.abc import Callable
from itertools import islice

from sagellm.broker import Sender
from sagellm_schemas import PrefixUpdate, encode, subjects
from sagellm_schemas.prefix import short_hash
from sagellm_schemas.prefix_updates import MAX_BLOCKS, pack

ACCOUNT_INTERVAL_S = 30.0


class PrefixReports:
    """Publishes `PrefixUpdate`s. It keeps what it has told, so a full account costs the engine nothing."""

    def __init__(
        self, instance: str, block_size: int, take_changes: Callable[[], dict[bytes, bool]], sender: Sender
    ) -> None:
        """`block_size` 0 means that the engine has nothing to tell."""
        self._instance = instance
        self._block_size = block_size
        self._take_changes = take_changes
        self._sender = sender
        self._subject = subjects.prefixes(instance)
        self._told: dict[int, None] = {}
        self._number = 0

    async def run(self, interval_s: float) -> None:
        """Publish for ever."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            if loop.time() >= due_s:
                self.account()
                due_s = loop.time() + ACCOUNT_INTERVAL_S
            else:
                self.changes()
            await asyncio.sleep(interval_s)

    def changes(self) -> None:
        """Publish what has changed, if anything has."""
        added, removed = self._learn()
        if added or removed:
            self._publish(added, removed)

    def account(self) -> None:
        """Publish everything."""
        self._learn()
        if self._block_size:
            self._publish(list(self._told), [], reset=True)

    def _learn(self) -> tuple[list[int], list[int]]:
        """Take in the engine's changes; returns what is new to those who listen, and what has gone."""
        if not self._block_size:
            return [], []
        added, removed = [], []
        for name, present in self._take_changes().items():
            block = short_hash(name)
            if present and block not in self._told:
                self._told[block] = None
                added.append(block)
            elif not present and block in self._told:
                del self._told[block]
                removed.append(block)
        return added, removed

    def _publish(self, added: list[int], removed: list[int], *, reset: bool = False) -> None:
        more, less = iter(added), iter(removed)
        pending = True
        while pending:
            self._number += 1
            adding, removing = list(islice(more, MAX_BLOCKS // 2)), list(islice(less, MAX_BLOCKS // 2))
            update = PrefixUpdate(
                instance=self._instance,
                number=self._number,
                block_size=self._block_size,
                reset=reset,
                added=pack(adding),
                removed=pack(removing),
            )
            self._sender.send(self._subject, encode(update))
            reset = False
            pending = len(adding) == MAX_BLOCKS // 2 or len(removing) == MAX_BLOCKS // 2
