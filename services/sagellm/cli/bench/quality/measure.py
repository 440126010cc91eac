"""A model's scores on a text, and two models' scores held against each other."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from sagellm.settings import Settings
from sagellm.worker.engines.own import engine_config
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.model_runner import ModelRunner
from sagellm_engine.text_score import TextScore, score_text
from sagellm_schemas import SettingsError

TEXT = Path(__file__).parent / "text.txt"

Progress = Callable[[int, int], None]


class Scored(msgspec.Struct, frozen=True):
    """One model's result. `weights` says how they are stored; `token_ids` are the text's."""

    model: str
    weights: str
    token_ids: list[int]
    score: TextScore


class Comparison(msgspec.Struct, frozen=True):
    """A model against another on the same tokens.

    `perplexity_ratio` is above 1 where it predicts worse, within a factor of 1 + `standard_error`. In
    `same_choice` of the places (0 to 1) both hold the same token likeliest.
    """

    perplexity_ratio: float
    standard_error: float
    same_choice: float


def read_text(path: Path | None) -> str:
    """The text in `path`, or our own.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return (path or TEXT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as text: {error}", param="text") from None


def score_model(settings: Settings, text: str, window_tokens: int, progress: Progress) -> Scored:
    """Load the model of `settings`, score `text` with it, and let it go.

    Raises:
        SageError: it cannot be loaded, its context is shorter than the window, or the text is too short.
    """
    asked = engine_config(settings)
    blocks = -(-window_tokens // asked.block_size)
    config = dataclasses.replace(asked, max_model_len=window_tokens, num_blocks=blocks, kv_cache_bytes=None)
    checkpoint = open_checkpoint(config.model)
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)
    tokenizer.no_truncation()
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(token_ids) < 2:
        raise SettingsError("the text has no two tokens to score", param="text")
    runner = ModelRunner(config, checkpoint)
    score = score_text(
        runner.executor,
        token_ids,
        prefix=tokenizer.encode("").ids,
        window_tokens=window_tokens,
        block_size=config.block_size,
        progress=progress,
    )
    dtype = checkpoint.config.dtype if config.dtype == "auto" else config.dtype
    return Scored(checkpoint.name, config.quantization or checkpoint.quantization or dtype, token_ids, score)


def compare(model: Scored, against: Scored) -> Comparison:
    """
    Raises:
        SettingsError: their tokenizers differ, so that their perplexities cannot be compared.
    """
    if model.token_ids != against.token_ids:
        raise SettingsError(
            f"{model.model} and {against.model} split the text into different tokens, "
            "so their perplexities cannot be compared"
        )
    pairs = list(zip(model.score.losses, against.score.losses, strict=True))
    differences = [ours - theirs for ours, theirs in pairs]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    same = sum(a == b for a, b in zip(model.score.choices, against.score.choices, strict=True))
    return Comparison(
        perplexity_ratio=math.exp(mean),
        standard_error=math.sqrt(variance / len(differences)),
        same_choice=same / len(differences),
    )
