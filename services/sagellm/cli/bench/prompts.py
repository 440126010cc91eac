"""The requests of a benchmark: random token ids, or the first turns of a file of conversations."""

import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sagellm_schemas import ChatMessage, InvalidRequest, SettingsError, UnsupportedParameter

if TYPE_CHECKING:
    from sagellm_engine import Tokenizer

LOWEST_TOKEN_ID = 256
"""Below, many vocabularies keep their control tokens and bytes."""


class _Line(msgspec.Struct, frozen=True):
    prompt: str = ""
    turns: list[str] = msgspec.field(default_factory=list)

    def first_turn(self) -> str:
        return self.prompt or self.turns[0]


class Prompts:
    """An endless supply of prompts that depends only on the seed: every server gets the same ones."""

    def __init__(self, dataset: str, *, input_tokens: int, vocab_size: int, seed: int) -> None:
        """`dataset` is "random", or the path of a JSONL file whose objects have a `prompt`, or `turns` as
        those of MT-bench.

        Raises:
            SettingsError: the file cannot be read.
        """
        if vocab_size <= LOWEST_TOKEN_ID:
            raise InvalidRequest(f"--vocab-size must be over {LOWEST_TOKEN_ID}")
        self._random = random.Random(seed)
        self._input_tokens = input_tokens
        self._vocab_size = vocab_size
        self._questions = [] if dataset == "random" else _read(Path(dataset))

    @property
    def are_chats(self) -> bool:
        """Whether the prompts are text for a chat, rather than token ids."""
        return bool(self._questions)

    def token_ids(self) -> list[int]:
        """The next random prompt."""
        return [self._random.randrange(LOWEST_TOKEN_ID, self._vocab_size) for _ in range(self._input_tokens)]

    def question(self) -> str:
        """The next question of the file, in random order with repetition."""
        return self._random.choice(self._questions)

    def encoded(self, tokenizer: "Tokenizer | None") -> list[int]:
        """The next prompt for an engine that takes token ids: random ones, or a chat with the next question.

        Raises:
            UnsupportedParameter: it is a chat, and there is no tokenizer.
        """
        return _chat(self.question(), tokenizer) if self.are_chats else self.token_ids()

    def longest(self, tokenizer: "Tokenizer") -> int:
        """Tokens of the longest prompt there can be."""
        return max((len(_chat(question, tokenizer)) for question in self._questions), default=self._input_tokens)


class RequestWriter:
    """Bodies of streaming requests: greedy, of exactly `output_tokens`, with usage at the end."""

    def __init__(self, model: str, prompts: Prompts, output_tokens: int) -> None:
        self.path = "/v1/chat/completions" if prompts.are_chats else "/v1/completions"
        self._prompts = prompts
        self._fields = {
            "model": model,
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def body(self) -> bytes:
        """The next request."""
        if self._prompts.are_chats:
            messages = [{"role": "user", "content": self._prompts.question()}]
            return msgspec.json.encode({**self._fields, "messages": messages})
        return msgspec.json.encode({**self._fields, "prompt": self._prompts.token_ids()})


def _chat(question: str, tokenizer: "Tokenizer | None") -> list[int]:
    if tokenizer is None:
        raise UnsupportedParameter("this engine has no tokenizer; use --dataset random")
    return tokenizer.encode(
        tokenizer.render([ChatMessage(role="user", content=question)]), add_special_tokens=False
    )


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_bytes().splitlines()
        found = [msgspec.json.decode(line, type=_Line).first_turn() for line in lines if line.strip()]
    except (OSError, msgspec.MsgspecError, IndexError) as error:
        raise SettingsError(f"--dataset {path} is no JSONL with `prompt` or `turns`: {error}") from None
    if not found:
        raise SettingsError(f"--dataset {path} is empty")
    return found
