"""What instances say of their prefix caches, taken into the index."""

import logging
import time
from collections.abc import Callable

from sagellm.broker import Message
from sagellm.scheduler.instances import Instances
from sagellm_schemas import Codec, InvalidRequest, PrefixUpdate
from sagellm_schemas.prefix_updates import unpack

logger = logging.getLogger(__name__)

ASK_INTERVAL_S = 1.0


class PrefixFeed:
    """Applies updates in order. After a gap it drops what it knows of the instance and calls `ask` for a full
    account, at most once a second; without an answer the account comes by itself now and then."""

    def __init__(self, instances: Instances, ask: Callable[[str], None]) -> None:
        self._instances = instances
        self._ask = ask
        self._codec = Codec(PrefixUpdate)
        self._numbers: dict[str, int] = {}
        self._asked_s: dict[str, float] = {}

    def on_message(self, message: Message) -> None:
        """One update off the wire."""
        try:
            update = self._codec.decode(message.data)
        except InvalidRequest as error:
            logger.warning("a prefix update on %s cannot be read: %s", message.subject, error)
            return
        self.take(update)

    def take(self, update: PrefixUpdate) -> None:
        """One update; those of instances that nobody knows yet count as lost."""
        instance_id = update.instance
        instance = self._instances.get(instance_id)
        if instance is None or update.block_size < 1:
            return
        index = self._instances.prefixes(instance.info.model)
        if not update.reset and update.number != self._numbers.get(instance_id, -1) + 1:
            if self._numbers.pop(instance_id, None) is not None:
                index.clear(instance_id)
            self._ask_for(instance_id)
            return
        if update.block_size != index.block_size:
            if not update.reset or self._is_told(instance.info.model, instance_id):
                return  # of two sizes, the one that was there first counts
            index.use_block_size(update.block_size)
        if update.reset:
            index.clear(instance_id)
        self._numbers[instance_id] = update.number
        index.remove(instance_id, unpack(update.removed))
        index.add(instance_id, unpack(update.added))

    def forget_gone(self) -> None:
        """Drop the numbers of instances that have gone."""
        for instance_id in [i for i in self._numbers if self._instances.get(i) is None]:
            del self._numbers[instance_id]
            self._asked_s.pop(instance_id, None)

    def _is_told(self, model: str, besides: str) -> bool:
        """Whether another instance of `model` has told what it holds."""
        others = (self._instances.get(i) for i in self._numbers if i != besides)
        return any(other is not None and other.info.model == model for other in others)

    def _ask_for(self, instance_id: str) -> None:
        now_s = time.monotonic()
        if now_s - self._asked_s.get(instance_id, -ASK_INTERVAL_S) >= ASK_INTERVAL_S:
            self._asked_s[instance_id] = now_s
            self._ask(instance_id)
