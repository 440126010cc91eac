"""The tokenizer files of a Hugging Face folder."""

from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from sagellm_schemas import ModelLoadError

from .json_file import read_json

_SLOW_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


class HFTokenizerFiles:
    """`tokenizer.json` with what `tokenizer_config.json` and `chat_template.jinja` say about it."""

    def __init__(self, json: bytes, config: dict[str, Any], chat_template: str, tokenizer: Tokenizer) -> None:
        self.json = json
        self.chat_template = chat_template
        self.bos_token = _token_text(config.get("bos_token"))
        self.eos_token = _token_text(config.get("eos_token"))
        self._tokenizer = tokenizer

    @cached_property
    def added_ids(self) -> dict[str, int]:
        """Added tokens, special or not, by their text."""
        return {token.content: token_id for token_id, token in self._tokenizer.get_added_tokens_decoder().items()}

    def id_of(self, token: str) -> int | None:
        """The token's id; None if the vocabulary does not have it."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def text(self, token_id: int) -> str:
        """The token's text; "" if the vocabulary does not have it."""
        return self._tokenizer.id_to_token(token_id) or ""


def read_tokenizer(folder: Path) -> HFTokenizerFiles:
    """Read the tokenizer of a model folder.

    Raises:
        ModelLoadError: there is no `tokenizer.json`, or a file is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        slow = [name for name in _SLOW_FILES if (folder / name).is_file()]
        hint = f", only {slow[0]}; save it with transformers' AutoTokenizer, which writes one" if slow else ""
        raise ModelLoadError(f"{folder} has no tokenizer.json{hint}")
    content = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    config = read_json(folder / "tokenizer_config.json", optional=True)
    return HFTokenizerFiles(content, config, _chat_template(folder, config), tokenizer)


def _chat_template(folder: Path, config: dict[str, Any]) -> str:
    """The template in its own file, or the one in the config, or the one called "default" of several there."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"{file} cannot be read: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):
        try:
            named = {entry["name"]: entry["template"] for entry in msgspec.convert(template, list[dict[str, str]])}
        except (msgspec.ValidationError, KeyError):
            raise ModelLoadError(
                f"{folder / 'tokenizer_config.json'} has a malformed list of chat templates"
            ) from None
        return named.get("default") or next(iter(named.values()), "")
    return template if isinstance(template, str) else ""


def _token_text(token: object) -> str:
    """A special token is its text, or an object that has it as `content`, or null."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
