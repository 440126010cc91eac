"""Which models exist: those with a card in the models bucket."""

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from sagellm.broker import Message, read_bucket
from sagellm_schemas import Codec, InvalidRequest, ModelCard, subjects

CHANGES = f"$KV.{subjects.MODELS_BUCKET}.>"


class Models:
    """The known models' names, kept up with the bucket by its own subject."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        self._js = js
        self._bucket = bucket
        self._codec = Codec(ModelCard)
        self._by_key: dict[str, str] = {}
        self._names: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._names)

    async def load(self) -> None:
        """Read every card; again after a reconnection, since changes may have been missed."""
        for key, card in (await read_bucket(self._js, subjects.MODELS_BUCKET)).items():
            self._learn(key, card)

    async def look_up(self, key: str) -> None:
        """Read the card under one key (the model's subject token), if there is one."""
        try:
            entry = await self._bucket.get(key)
        except (nats.js.errors.KeyNotFoundError, nats.js.errors.InvalidKeyError):
            return
        self._learn(key, entry.value or b"")

    def on_change(self, message: Message) -> None:
        """Take in one change of the bucket."""
        self._learn(message.subject[len(CHANGES) - 1 :], message.data)

    def _learn(self, key: str, card: bytes) -> None:
        try:
            self._by_key[key] = self._codec.decode(card).name
        except InvalidRequest:
            self._by_key.pop(key, None)  # deleted, or not a card
        self._names = frozenset(self._by_key.values())
