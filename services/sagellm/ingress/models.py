"""The models that can be asked for: cards from the bucket, tokenizers from the object store, both through NATS."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import msgspec
import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue

from sagellm.broker import Connection, read_bucket
from sagellm_engine import Tokenizer
from sagellm_schemas import Codec, InvalidRequest, ModelCard, ModelNotFound, subjects

from .prompts import PromptEncoder

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class Model(msgspec.Struct, frozen=True):
    """A model that can be asked for, or an adapter of one under its own name.

    `subject` is where its requests go. `tokenizer` and `encoder` are None where the engine itself tokenizes.
    """

    card: ModelCard
    subject: str
    tokenizer: Tokenizer | None = None
    encoder: PromptEncoder | None = None

    @property
    def base(self) -> str:
        """The model that computes the answer."""
        return self.card.parent or self.card.name

    @property
    def adapter(self) -> str | None:
        """The adapter that it is; None for a model itself."""
        return self.card.name if self.card.parent else None


class Models:
    """All known models, kept up to date by `follow`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cards: Codec[ModelCard] = Codec(ModelCard)
        self._by_key: dict[str, Model] = {}
        self._by_name: dict[str, Model] = {}
        self._watcher: KeyValue.KeyWatcher | None = None
        self._loaded = asyncio.Event()
        connection.on_reconnect(self._on_reconnect)

    def find(self, name: str) -> Model:
        """The model called `name`.

        Raises:
            ModelNotFound: there is none; the message lists those that there are.
        """
        model = self._by_name.get(name)
        if model is None:
            known = ", ".join(sorted(self._by_name)) or "none yet"
            raise ModelNotFound(f"the model {name!r} does not exist; known models: {known}", param="model")
        return model

    def cards(self) -> list[ModelCard]:
        """The cards of all models, by name."""
        return [self._by_name[name].card for name in sorted(self._by_name)]

    async def wait_until_loaded(self) -> None:
        """Return when what the bucket held at the start is known."""
        await self._loaded.wait()

    async def follow(self) -> None:
        """Watch the bucket for as long as the service runs, over reconnections."""
        while True:
            try:
                await self._watch()
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("cannot watch the models bucket, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _on_reconnect(self) -> None:
        """The server may have forgotten the watcher's consumer: end it, so that `follow` makes a new one."""
        if self._watcher is not None:
            await _stop(self._watcher)

    async def _watch(self) -> None:
        """Follow one watcher until it ends."""
        bucket = await self._connection.js.key_value(subjects.MODELS_BUCKET)
        self._watcher = await bucket.watchall()
        try:
            present = await read_bucket(self._connection.js, subjects.MODELS_BUCKET)
            for key, value in present.items():
                await self._learn(key, value)
            self._forget(set(self._by_key) - set(present))
            self._loaded.set()
            async for entry in self._watcher:
                if entry is None:  # nats-py's mark between what was there and what is new
                    continue
                if entry.operation in ("DEL", "PURGE"):
                    self._forget([entry.key])
                else:
                    await self._learn(entry.key, entry.value or b"")
        finally:
            watcher, self._watcher = self._watcher, None
            await _stop(watcher)

    async def _learn(self, key: str, value: bytes) -> None:
        try:
            card = self._cards.decode(value)
            model = await self._load(card)
        except (InvalidRequest, ValueError) as error:
            logger.error("the card of model %s is of no use: %s", key, error)
            return
        except nats.js.errors.NotFoundError:
            logger.error("the tokenizer %s of model %s is not in the object store", card.tokenizer, card.name)
            return
        self._forget([key])
        self._by_key[key] = self._by_name[card.name] = model
        logger.info("model %s, context %d tokens", card.name, card.max_model_len)

    async def _load(self, card: ModelCard) -> Model:
        subject = subjects.requests(card.parent or card.name)
        if not card.tokenizer:
            return Model(card, subject)
        for known in self._by_name.values():  # an adapter shares what its model has
            if known.tokenizer is not None and _same_text_rules(known.card, card):
                return msgspec.structs.replace(known, card=card, subject=subject)
        store = await self._connection.js.object_store(subjects.TOKENIZERS_BUCKET)
        tokenizer_json = (await store.get(card.tokenizer)).data or b""
        tokenizer = await asyncio.to_thread(Tokenizer, tokenizer_json, card)
        return Model(card, subject, tokenizer, PromptEncoder(tokenizer, tokenizer_json))

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            model = self._by_key.pop(key, None)
            if model is not None:
                self._by_name.pop(model.card.name, None)


def _same_text_rules(old: ModelCard, new: ModelCard) -> bool:
    return (old.tokenizer, old.chat_template, old.bos_token, old.eos_token) == (
        new.tokenizer,
        new.chat_template,
        new.bos_token,
        new.eos_token,
    )


async def _stop(watcher: KeyValue.KeyWatcher) -> None:
    with contextlib.suppress(nats.errors.Error):
        await watcher.stop()  # type: ignore[no-untyped-call]
