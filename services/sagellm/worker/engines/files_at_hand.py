"""The tokenizer and card of a model whose files are on this machine."""

import time
from pathlib import Path

from sagellm.settings import Settings
from sagellm_schemas import ModelCard


def card_at_hand(settings: Settings) -> tuple[ModelCard, bytes] | None:
    """Card and `tokenizer.json` of `settings.model`; None if that is no path and not in the cache.

    Nothing is ever fetched: the engines that ask do not need the weights.

    Raises:
        ModelLoadError: there are files, but they cannot be read.
    """
    # The readers import torch.
    from sagellm_engine.loader import open_checkpoint
    from sagellm_engine.loader.pull import cached

    if not Path(settings.model).expanduser().exists() and cached(settings.model) is None:
        return None
    checkpoint = open_checkpoint(settings.model)
    context = checkpoint.config.max_position_embeddings
    card = ModelCard(
        name=settings.served_name or checkpoint.name,
        max_model_len=min(settings.max_model_len or context, context),
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
        eos_token_ids=checkpoint.eos_token_ids,
        vocab_size=checkpoint.config.vocab_size,
        created=int(time.time()),
    )
    return card, checkpoint.tokenizer_json
