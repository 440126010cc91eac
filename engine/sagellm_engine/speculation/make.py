"""From settings to a `Speculator`."""

from dataclasses import replace

from tokenizers import Tokenizer

from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import Checkpoint, open_checkpoint
from sagellm_engine.model_runner import ModelRunner
from sagellm_schemas import ModelLoadError

from .draft_model import DraftModel
from .ngram import NgramProposer
from .speculator import Speculator


def open_draft(config: EngineConfig, model: Checkpoint) -> Checkpoint | None:
    """The draft model's checkpoint, if one is asked for.

    Raises:
        ModelLoadError: it cannot be loaded, or has another vocabulary than `model`.
    """
    if config.speculation != "draft" or config.draft_model is None:
        return None
    draft = open_checkpoint(config.draft_model)
    check_vocabulary(model, draft)
    return draft


def check_vocabulary(model: Checkpoint, draft: Checkpoint) -> None:
    """
    Raises:
        ModelLoadError: a token id does not mean the same to both.
    """
    ours, theirs = (
        {token_id: text for text, token_id in Tokenizer.from_buffer(c.tokenizer_json).get_vocab().items()}
        for c in (model, draft)
    )
    differing = min((i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i)), default=None)
    if differing is not None:
        raise ModelLoadError(
            f"draft_model {draft.name} has another vocabulary than {model.name}: token {differing} is "
            f"{theirs.get(differing)!r} to one and {ours.get(differing)!r} to the other; "
            "take a smaller model of the same family"
        )


def make_speculator(
    config: EngineConfig, runner: ModelRunner, model: Checkpoint, draft: Checkpoint | None
) -> Speculator | None:
    """What drafts for `runner`; None without speculation. Loads the weights of `draft`.

    Raises:
        ModelLoadError: they cannot be read.
        OutOfMemory: they do not fit, or the KV cache does not.
    """
    if config.speculation is None:
        return None
    if draft is None:
        return Speculator(NgramProposer(), config.num_draft_tokens)
    context = min(runner.max_model_len, draft.config.max_position_embeddings)
    settings = replace(
        config, model=draft.name, num_blocks=runner.num_blocks, max_model_len=context, quantization=None
    )
    drafting = ModelRunner(settings, draft)
    proposer = DraftModel(
        drafting.executor,
        num_blocks=runner.num_blocks,
        block_size=config.block_size,
        max_model_len=context,
        vocab_sizes=(draft.config.vocab_size, model.config.vocab_size),
    )
    return Speculator(proposer, config.num_draft_tokens)
