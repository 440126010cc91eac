"""Which models and adapters exist: those with a card in the models bucket."""

from collections.abc import Iterable

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from sagellm.broker import Message, read_bucket
from sagellm_schemas import Codec, InferenceRequest, InvalidRequest, ModelCard, ModelNotFound, subjects

CHANGES = f"$KV.{subjects.MODELS_BUCKET}.>"
LISTED = 20


class Models:
    """The known models and their adapters, kept up with the bucket by its own subject."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        self._js = js
        self._bucket = bucket
        self._codec = Codec(ModelCard)
        self._by_key: dict[str, ModelCard] = {}
        self._names: frozenset[str] = frozenset()
        self._parents: dict[str, str] = {}

    def __contains__(self, request: InferenceRequest) -> bool:
        """Whether the model and the adapter that `request` asks for are known."""
        adapter = request.adapter
        return request.model in self._names and (adapter is None or self._parents.get(adapter) == request.model)

    def not_found(self, request: InferenceRequest) -> ModelNotFound:
        """Why `request` cannot be answered, of which something is not known."""
        model, adapter = request.model, request.adapter
        if model in self._names:
            known = _listed(name for name, parent in self._parents.items() if parent == model)
            return ModelNotFound(
                f"the model {model[:100]!r} has no adapter {(adapter or '')[:100]!r}; known: {known}",
                param="adapter",
            )
        if model in self._parents:
            parent = self._parents[model]
            return ModelNotFound(
                f"{model[:100]!r} is an adapter: ask for model {parent[:100]!r} with adapter {model[:100]!r}",
                param="model",
            )
        return ModelNotFound(f"there is no model {model[:100]!r}; known: {_listed(self._names)}", param="model")

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
            self._by_key[key] = self._codec.decode(card)
        except InvalidRequest:
            self._by_key.pop(key, None)  # deleted, or not a card
        cards = self._by_key.values()
        self._names = frozenset(card.name for card in cards if not card.parent)
        self._parents = {card.name: card.parent for card in cards if card.parent}


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:LISTED]) + (", …" if len(found) > LISTED else "") or "none yet"
