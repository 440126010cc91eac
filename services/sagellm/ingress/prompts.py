"""Rendered conversations to token ids, without encoding again what was encoded a turn ago.

A tokenizer splits a text at its special tokens first and treats what lies between them independently. So a
conversation is encoded in pieces (the system prompt, each turn), and the pieces are remembered: the next turn of
the same conversation, and every conversation with the same system prompt, encode only what is new.
"""

import asyncio
import json
import re
from array import array
from collections import OrderedDict
from typing import Any

from sagellm_engine import Tokenizer

REMEMBERED_TOKENS = 1_000_000
"""Bound of the memory: 4 bytes each, and as much again for the texts."""

LONG_TEXT_CHARS = 8192
"""Encoding more than this takes milliseconds, so it is done in a thread."""


class PromptEncoder:
    """Encodes rendered prompts with one tokenizer; the ids are exactly those of encoding the whole text."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_json: bytes) -> None:
        self._tokenizer = tokenizer
        self._special = _special_tokens(json.loads(tokenizer_json))
        longest_first = sorted(self._special, key=len, reverse=True)
        self._split = (
            re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split if longest_first else None
        )
        self._pieces: OrderedDict[str, array[int]] = OrderedDict()
        self._tokens = 0

    async def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which has its own special tokens."""
        if self._split is None:
            return (await self._encode_piece(text)).tolist()
        ids: list[int] = []
        for piece in self._split(text):
            special = self._special.get(piece)
            if special is not None:
                ids.append(special)
            elif piece:
                known = self._pieces.get(piece)
                if known is None:
                    known = await self._encode_piece(piece)
                    self._remember(piece, known)
                else:
                    self._pieces.move_to_end(piece)
                ids += known
        return ids

    async def _encode_piece(self, text: str) -> "array[int]":
        if len(text) <= LONG_TEXT_CHARS:
            return array("I", self._tokenizer.encode(text, add_special_tokens=False))
        return array("I", await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=False))

    def _remember(self, piece: str, ids: "array[int]") -> None:
        if piece not in self._pieces:
            self._pieces[piece] = ids
            self._tokens += len(ids)
        while self._tokens > REMEMBERED_TOKENS:
            _, oldest = self._pieces.popitem(last=False)
            self._tokens -= len(oldest)


def _special_tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Text to id of the tokens at which a text may be cut; none where a piece depends on what is before it."""
    if "Metaspace" in json.dumps(tokenizer.get("pre_tokenizer")):  # may treat the first piece as special
        return {}
    tokens = tokenizer.get("added_tokens") or []
    # These look at the text around them, or at the normalized text: cutting there would change what they see.
    if any(t["lstrip"] or t["rstrip"] or t["single_word"] or t["normalized"] for t in tokens):
        return {}
    return {t["content"]: t["id"] for t in tokens if t["content"]}
