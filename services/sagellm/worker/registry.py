"""What the worker makes known through NATS: its model and adapters with their tokenizer, and its registration."""

import contextlib
import hashlib
import logging

import msgspec
import nats.js.errors
from nats.js.kv import KeyValue

from sagellm.broker import Connection, read_bucket
from sagellm_engine.contract import ServedModel
from sagellm_schemas import JSON, Codec, InstanceInfo, InvalidRequest, ModelCard, SettingsError, encode, subjects

logger = logging.getLogger(__name__)


def tokenizer_name(model: str, tokenizer_json: bytes) -> str:
    """The object that holds a model's tokenizer; another tokenizer has another name."""
    return f"{subjects.token(model)}-{hashlib.sha256(tokenizer_json).hexdigest()[:16]}"


async def publish_model(connection: Connection, served: ServedModel) -> ModelCard:
    """Put the tokenizer and then the cards where ingresses find them; what is there already stays as it is.

    Raises:
        SettingsError: an adapter has the name of another model.
    """
    card = served.card
    if served.adapters:
        await _check_names(connection, served.adapters, card.name)
    if served.tokenizer_json:
        card = msgspec.structs.replace(card, tokenizer=tokenizer_name(card.name, served.tokenizer_json))
        store = await connection.js.object_store(subjects.TOKENIZERS_BUCKET)
        try:
            await store.get_info(card.tokenizer)
        except nats.js.errors.NotFoundError:
            await store.put(card.tokenizer, served.tokenizer_json)
    models = await connection.js.key_value(subjects.MODELS_BUCKET)
    await _put(models, card)
    for adapter in served.adapters:
        await _put(models, msgspec.structs.replace(card, name=adapter, parent=card.name))
    return card


async def _put(models: KeyValue, card: ModelCard) -> None:
    key = subjects.token(card.name)
    try:
        known = Codec(ModelCard).decode((await models.get(key)).value or b"", JSON)
    except (nats.js.errors.NotFoundError, InvalidRequest):
        known = None
    if known is not None and (known.name, known.parent) != (card.name, card.parent):
        logger.warning("model %s takes the place of %s: both are %s in subjects", card.name, known.name, key)
    if known is None or known != msgspec.structs.replace(card, created=known.created):
        await models.put(key, encode(card, JSON))


async def _check_names(connection: Connection, adapters: list[str], model: str) -> None:
    """An adapter is asked for as a model is, so no other one that is served now may be called alike.

    Raises:
        SettingsError: one is.
    """
    codec = Codec(InstanceInfo)
    taken = {subjects.token(model): model}
    for value in (await read_bucket(connection.js, subjects.INSTANCES_BUCKET)).values():
        with contextlib.suppress(InvalidRequest):
            info = codec.decode(value, JSON)
            taken[subjects.token(info.model)] = info.model
            if info.model != model:
                taken |= {subjects.token(name): f"{name}, an adapter of {info.model}" for name in info.adapters}
    for adapter in adapters:
        key = subjects.token(adapter)
        if key in taken:
            raise SettingsError(
                f"the adapter {adapter!r} must have another name: {taken[key]} is served under it",
                param="adapters",
            )
        taken[key] = adapter


async def register(connection: Connection, info: InstanceInfo) -> None:
    """Enter the instance, or keep its entry from expiring."""
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    await instances.put(subjects.token(info.instance_id), encode(info, JSON))


async def deregister(connection: Connection, info: InstanceInfo) -> None:
    """Take the instance out."""
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    await instances.delete(subjects.token(info.instance_id))
