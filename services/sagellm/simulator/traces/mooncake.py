"""Mooncake's public traces: JSON lines of `timestamp`, `input_length`, `output_length` and `hash_ids`."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .lines import bad_line, read_lines, token_count
from .request import TraceRequest

BLOCK_TOKENS = 512
"""Each hash id names so many tokens and all before them; the last one of a prompt may name fewer."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


def read_mooncake(path: Path) -> Iterator[TraceRequest]:
    """The requests in the file's order; `arrival_s` as in the file. Only full blocks are taken for shareable.

    Raises:
        InvalidRequest: naming the line at fault.
    """
    decoder = msgspec.json.Decoder(_Line)
    for number, text in read_lines(path):
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise bad_line(path, number, f"not a Mooncake request: {error}") from None
        if not math.isfinite(line.timestamp):
            raise bad_line(path, number, "timestamp must be finite milliseconds")
        if any(block < 0 for block in line.hash_ids):
            raise bad_line(path, number, "hash_ids must not be negative")
        input_tokens = token_count(path, number, "input_length", line.input_length, 1)
        yield TraceRequest(
            arrival_s=line.timestamp / 1000,
            input_tokens=input_tokens,
            output_tokens=max(1, token_count(path, number, "output_length", line.output_length, 0)),
            blocks=tuple(line.hash_ids[: input_tokens // BLOCK_TOKENS]),
            block_tokens=BLOCK_TOKENS,
        )
