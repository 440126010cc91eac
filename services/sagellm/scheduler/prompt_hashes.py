"""Hashes of prompts' blocks, without hashing again what many prompts begin with."""

from array import array
from collections.abc import Sequence

from sagellm_schemas.prefix import INT_BYTES, ROOT, block_hash, short_hash

CHUNK_BLOCKS = 16
MAX_CHUNKS = 4096
"""About 7 MB with blocks of 16 tokens."""


class PromptHashes:
    """`sagellm_schemas.prefix.short_hashes` with a memory for chunks of 16 blocks, the oldest out first.

    A chunk that is known costs one look-up instead of 16 hashes: system prompts and earlier turns come again.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, list[int]]] = {}
        self._block_size = 0

    def of(self, token_ids: Sequence[int], block_size: int, max_blocks: int) -> list[int]:
        """The short hashes of the leading full blocks, at most `max_blocks`."""
        if block_size != self._block_size:
            self._known.clear()
            self._block_size = block_size
        count = min(len(token_ids) // block_size, max_blocks)
        data = array("i", token_ids[: count * block_size]).tobytes()
        parent, found = ROOT, []
        span = CHUNK_BLOCKS * block_size * INT_BYTES
        for start in range(0, len(data), span):
            chunk = parent + data[start : start + span]
            known = self._known.get(chunk)
            if known is None:
                begin = start // INT_BYTES
                known = _hash(
                    parent, token_ids[begin : min(begin + span // INT_BYTES, count * block_size)], block_size
                )
                self._keep(chunk, known)
            parent, blocks = known
            found += blocks
        return found

    def _keep(self, chunk: bytes, hashed: tuple[bytes, list[int]]) -> None:
        self._known[chunk] = hashed
        if len(self._known) > MAX_CHUNKS:
            del self._known[next(iter(self._known))]


def _hash(parent: bytes, token_ids: Sequence[int], block_size: int) -> tuple[bytes, list[int]]:
    """The last hash of a chain that goes on from `parent`, and all of them in short."""
    found = []
    for start in range(0, len(token_ids), block_size):
        parent = block_hash(parent, token_ids[start : start + block_size])
        found.append(short_hash(parent))
    return parent, found
