"""Text to tokens and back, from a `tokenizer.json` and a chat template alone: no model files, no torch.

Both ends use it: the ingress renders and encodes prompts, the engine decodes answers.
"""

import datetime
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.decoders import DecodeStream

from sagellm_schemas import ChatMessage, InferenceRequest, InvalidRequest, ModelCard

LONG_TEXT_CHARS = 8192
"""A text from this length takes some milliseconds to encode: do it on a thread."""


class Tokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, tokenizer_json: bytes, card: ModelCard) -> None:
        """
        Raises:
            ValueError: `tokenizer_json` is not a tokenizer, or the card's chat template is not a template.
        """
        self.card = card
        try:
            self._tokenizer = HFTokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"tokenizer.json of {card.name} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = _compile(card.chat_template) if card.chat_template else None

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with BOS and the like when the tokenizer adds them.

        While a long text is encoded, other threads can run.
        """
        if len(text) < LONG_TEXT_CHARS:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        # `encode` holds the interpreter's lock all the while, 0.2 s for 200 kB; a batch lets go of it.
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `token_ids`."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_text(self, token_id: int) -> str:
        """Text of one token alone; a part of a character decodes to U+FFFD."""
        return self.decode([token_id], skip_special_tokens=False)

    def stream(self) -> "TokenStream":
        """A decoder for one answer."""
        return TokenStream(self._tokenizer)

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The conversation as the model's prompt text, ending where the assistant speaks.

        Raises:
            InvalidRequest: the model has no chat template, or its template refuses these messages.
        """
        if self._template is None:
            raise InvalidRequest(
                f"model {self.card.name} has no chat template; use /v1/completions with a prompt",
                param="messages",
            )
        turns = [{"role": m.role, "content": m.text()} | _extras(m) for m in messages]
        try:
            return self._template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self.card.bos_token,
                eos_token=self.card.eos_token,
                tools=None,
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param="messages") from None

    def prompt_tokens(self, request: InferenceRequest) -> list[int]:
        """The prompt of `request` as token ids, whichever of its three forms it has.

        Raises:
            InvalidRequest: it has none, or the chat template refuses its messages.
        """
        if request.prompt_token_ids is not None:
            return list(request.prompt_token_ids)
        if request.messages is not None:
            # A template writes its own special tokens.
            return self.encode(self.render(request.messages), add_special_tokens=False)
        if request.prompt is not None:
            return self.encode(request.prompt)
        raise InvalidRequest("give one of messages, prompt and prompt_token_ids", param="prompt")


class TokenStream:
    """Incremental decoder: text comes out in whole characters, as soon as they are certain."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often one word, sometimes nothing."""
        return self._stream.step(self._tokenizer, token_id) or ""


def _extras(message: ChatMessage) -> dict[str, Any]:
    optional = {"name": message.name, "tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id}
    return {key: value for key, value in optional.items() if value is not None}


def _compile(source: str) -> jinja2.Template:
    """Compile a chat template in a sandbox: it comes with the model's files, so it is not trusted."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.filters["tojson"] = _tojson
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template is not valid Jinja: {error}") from error
    # Copied at every rendering; Jinja's own is a chain of maps, which is slow to copy.
    template.globals = dict(template.globals)
    return template


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime(pattern)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
