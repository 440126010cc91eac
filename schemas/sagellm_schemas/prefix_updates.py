"""What an instance says of its prefix cache."""

from array import array
from collections.abc import Iterable

import msgspec

MAX_BLOCKS = 16_384
"""Blocks of one message at most: 128 KiB."""


class PrefixUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Blocks that have come into the prefix cache of `instance` or have left it.

    `number` counts an instance's updates without a gap, so that a lost one shows. With `reset` all that was said
    before is void: a full account follows, in this update and as many more as it takes. `added` and `removed` are
    the first 8 bytes of blocks' hashes, one after the other (`sagellm_schemas.prefix`).
    """

    instance: str
    number: int
    block_size: int
    """Tokens of a block."""
    reset: bool = False
    added: bytes = b""
    removed: bytes = b""


def pack(hashes: Iterable[int]) -> bytes:
    """Short hashes as bytes."""
    return array("Q", hashes).tobytes()


def unpack(data: bytes) -> "array[int]":
    """Short hashes from bytes; what is no whole hash at the end is dropped."""
    hashes = array("Q")
    hashes.frombytes(data[: len(data) // hashes.itemsize * hashes.itemsize])
    return hashes
