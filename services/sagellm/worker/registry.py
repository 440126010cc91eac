"""What the worker makes known through NATS: its model's tokenizer and card, and its own registration."""

import hashlib
import logging

import msgspec
import nats.js.errors

from sagellm.broker import Connection
from sagellm_engine.contract import ServedModel
from sagellm_schemas import JSON, Codec, InstanceInfo, InvalidRequest, ModelCard, encode, subjects

logger = logging.getLogger(__name__)


def tokenizer_name(model: str, tokenizer_json: bytes) -> str:
    """The object that holds a model's tokenizer; another tokenizer has another name."""
    return f"{subjects.token(model)}-{hashlib.sha256(tokenizer_json).hexdigest()[:16]}"


async def publish_model(connection: Connection, served: ServedModel) -> ModelCard:
    """Put the tokenizer and then the card where ingresses find them; what is there already stays as it is."""
    card = served.card
    if served.tokenizer_json:
        card = msgspec.structs.replace(card, tokenizer=tokenizer_name(card.name, served.tokenizer_json))
        store = await connection.js.object_store(subjects.TOKENIZERS_BUCKET)
        try:
            await store.get_info(card.tokenizer)
        except nats.js.errors.NotFoundError:
            await store.put(card.tokenizer, served.tokenizer_json)
    models = await connection.js.key_value(subjects.MODELS_BUCKET)
    key = subjects.token(card.name)
    try:
        known = Codec(ModelCard).decode((await models.get(key)).value or b"", JSON)
    except (nats.js.errors.NotFoundError, InvalidRequest):
        known = None
    if known is not None and known.name != card.name:
        logger.warning("model %s takes the place of %s: both are %s in subjects", card.name, known.name, key)
    if known is None or known != msgspec.structs.replace(card, created=known.created):
        await models.put(key, encode(card, JSON))
    return card


async def register(connection: Connection, info: InstanceInfo) -> None:
    """Enter the instance, or keep its entry from expiring."""
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    await instances.put(subjects.token(info.instance_id), encode(info, JSON))


async def deregister(connection: Connection, info: InstanceInfo) -> None:
    """Take the instance out."""
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    await instances.delete(subjects.token(info.instance_id))
