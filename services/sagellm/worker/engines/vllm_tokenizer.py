"""The tokenizer of the model that a vLLM server runs, if its files are at hand here too."""

import asyncio
import logging

import msgspec

from sagellm.settings import Settings
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import ModelCard, SageError

from .files_at_hand import card_at_hand
from .vllm_server import VllmServer

logger = logging.getLogger(__name__)

PROBE = "Ünïcode, 12345 words\n\tand  spaces — 你好 🙂 of one, don't, fi\u0301n <|im_end|>."
"""Text on which tokenizers of different models differ."""


class LocalTokenizer(msgspec.Struct, frozen=True):
    """What the files say; the server's context and name go into the card later."""

    card: ModelCard
    tokenizer_json: bytes
    tokenizer: Tokenizer


async def find_tokenizer(settings: Settings, server: VllmServer, model: str) -> LocalTokenizer | None:
    """The tokenizer of `settings.model`, provided that the server's `model` makes the same tokens of a probe.

    With it the pipeline tokenizes and decodes; without, prompts go to the server as text.
    """
    found = await asyncio.to_thread(card_at_hand, settings)
    if found is None:
        return None
    card, tokenizer_json = found
    tokenizer = Tokenizer(tokenizer_json, card)
    try:
        theirs = await server.tokenize({"model": model, "prompt": PROBE})
    except SageError as error:
        logger.warning("vLLM does not tokenize (%s); prompts are sent as text", error)
        return None
    if tokenizer.encode(PROBE) != theirs:
        logger.warning("%s is not the model that vLLM serves; prompts are sent as text", settings.model)
        return None
    return LocalTokenizer(card, tokenizer_json, tokenizer)
