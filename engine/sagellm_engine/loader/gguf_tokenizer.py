"""A `tokenizer.json` from the vocabulary in a GGUF file.

Two kinds exist: byte-level BPE with its merges ("gpt2"), and SentencePiece BPE with a score for each piece
("llama"), whose merges are recovered from the scores.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

import msgspec
from tokenizers import Tokenizer

from sagellm_schemas import ModelLoadError

from .gguf_pretokenizers import PRETOKENIZERS

T = TypeVar("T")
Json = dict[str, Any]


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ADDED = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


class GgufTokenizer:
    """What a GGUF file's metadata says about text and tokens.

    `added_ids` are the tokens found in a text before it is cut into words, by their own text. `eos_ids` are end of
    text, of turn and of message, as far as the file declares them.
    """

    def __init__(self, metadata: dict[str, object], file: str) -> None:
        """
        Raises:
            ModelLoadError: the metadata has no vocabulary, or one of a kind we do not know.
        """
        self._metadata = metadata
        self._file = file
        self.tokens = self._need("tokens", list[str])
        self._types = self._get("token_type", list[int], [TokenType.NORMAL] * len(self.tokens))
        if len(self._types) != len(self.tokens):
            raise ModelLoadError(f"{file} has {len(self.tokens)} tokens but {len(self._types)} token types")
        self.added_ids = {
            token: token_id
            for token_id, (token, kind) in enumerate(zip(self.tokens, self._types, strict=True))
            if kind in _ADDED
        }
        self.bos_id = self._token_id("bos_token_id")
        self.eos_id = self._token_id("eos_token_id")
        self.eos_ids = [self.eos_id, self._token_id("eot_token_id"), self._token_id("eom_token_id")]

    def text(self, token_id: int | None) -> str:
        """The token as it stands in the vocabulary; "" for None."""
        return "" if token_id is None else self.tokens[token_id]

    def to_json(self) -> bytes:
        """The `tokenizer.json`.

        Raises:
            ModelLoadError: it is of a kind we do not know, or damaged.
        """
        model = self._need("model", str)
        builders: dict[str, Callable[[], Json]] = {"gpt2": self._byte_level, "llama": self._sentencepiece}
        if model not in builders:
            raise ModelLoadError(
                f"{self._file} has a tokenizer of kind {model!r}, which is not supported; "
                f"supported are {', '.join(builders)}"
            )
        common = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": self._added_tokens()}
        content = msgspec.json.encode(common | builders[model]())
        try:
            Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelLoadError(f"{self._file} has a damaged tokenizer: {error}") from error
        return content

    def _byte_level(self) -> Json:
        name = self._get("pre", str, "default")
        if name not in PRETOKENIZERS:
            raise ModelLoadError(
                f"{self._file} splits text as {name!r}, which is not supported; "
                f"supported are {', '.join(sorted(PRETOKENIZERS))}"
            )
        pre = PRETOKENIZERS[name]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        steps = [*pre.steps, byte_level | {"use_regex": pre.gpt2_words}]
        merges = [merge.split(" ", 1) for merge in self._need("merges", list[str])]
        return {
            "normalizer": pre.normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": self._post_processor(add_bos=pre.add_bos),
            "decoder": byte_level | {"use_regex": True},
            "model": self._bpe(merges, unk_token=None, byte_fallback=False, ignore_merges=pre.ignore_merges),
        }

    def _sentencepiece(self) -> Json:
        prefix = self._get("add_space_prefix", bool, True)
        scores = self._need("scores", list[float])
        if len(scores) != len(self.tokens):
            raise ModelLoadError(f"{self._file} has {len(self.tokens)} tokens but {len(scores)} scores")
        unknown = self._token_id("unknown_token_id")
        spaces: Json = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        prepend: list[Json] = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
        strip: list[Json] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
        decoders = [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *strip,
        ]
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*prepend, spaces]},
            "pre_tokenizer": None,
            "post_processor": self._post_processor(add_bos=True),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": self._bpe(
                self._merges_of(scores),
                unk_token=self.text(unknown) or None,
                byte_fallback=True,
                ignore_merges=False,
            ),
        }

    def _bpe(self, merges: list[list[str]], **options: object) -> Json:
        vocabulary = {token: token_id for token_id, token in enumerate(self.tokens)}
        return {"type": "BPE", "dropout": None, "fuse_unk": True, "vocab": vocabulary, "merges": merges} | options

    def _merges_of(self, scores: list[float]) -> list[list[str]]:
        """Pairs in the order SentencePiece would join them: best result first, older tokens first among equals."""
        pieces = {
            token: token_id
            for token_id, token in enumerate(self.tokens)
            if self._types[token_id] in (TokenType.NORMAL, TokenType.USER_DEFINED)
        }
        merges: list[list[str]] = []
        for piece in sorted(pieces, key=lambda token: (-scores[pieces[token]], pieces[token])):
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in pieces and right in pieces:
                    merges.append([left, right])
        return merges

    def _added_tokens(self) -> list[Json]:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": token_id, "content": token, "special": kind != TokenType.USER_DEFINED} | plain
            for token_id, (token, kind) in enumerate(zip(self.tokens, self._types, strict=True))
            if kind in _ADDED
        ]

    def _post_processor(self, *, add_bos: bool) -> Json:
        bos = self.bos_id if self._get("add_bos_token", bool, add_bos) else None
        eos = self.eos_id if self._get("add_eos_token", bool, False) else None
        around = {self.text(token_id): token_id for token_id in (bos, eos) if token_id is not None}

        def sequence(name: str, type_id: int) -> list[Json]:
            parts: list[Json] = [{"Sequence": {"id": name, "type_id": type_id}}]
            if bos is not None:
                parts.insert(0, {"SpecialToken": {"id": self.text(bos), "type_id": type_id}})
            if eos is not None:
                parts.append({"SpecialToken": {"id": self.text(eos), "type_id": type_id}})
            return parts

        return {
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": sequence("A", 0) + sequence("B", 1),
            "special_tokens": {
                text: {"id": text, "ids": [token_id], "tokens": [text]} for text, token_id in around.items()
            },
        }

    def _token_id(self, key: str) -> int | None:
        token_id: int | None = self._get(key, int | None, None)
        if token_id is not None and not 0 <= token_id < len(self.tokens):
            raise ModelLoadError(f"{self._file} has {key} {token_id}, but only {len(self.tokens)} tokens")
        return token_id

    def _need(self, key: str, kind: type[T]) -> T:
        if f"tokenizer.ggml.{key}" not in self._metadata:
            raise ModelLoadError(
                f"{self._file} has no metadata tokenizer.ggml.{key}, so it has no usable tokenizer"
            )
        value: T = self._get(key, kind, None)
        return value

    def _get(self, key: str, kind: Any, default: Any) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ModelLoadError(f"{self._file} has a wrong tokenizer.ggml.{key}: {error}") from None
