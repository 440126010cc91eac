"""Hashes of prompts' blocks, without hashing again what many prompts begin with."""

from collections import OrderedDict

from sagellm_schemas.prefix import INT_BYTES, ROOT, chained

CHUNK_BLOCKS = 16
MAX_CHUNKS = 4096
"""About 7 MB with blocks of 16 tokens."""


class PromptHashes:
    """`sagellm_schemas.prefix.short_hashes` with a memory for chunks of 16 blocks, the oldest out first.

    A chunk that is known costs one look-up instead of 16 hashes: system prompts and earlier turns come again.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[bytes, list[int]]] = OrderedDict()
        self._block_size = 0

    def of(self, tokens: bytes, block_size: int, max_blocks: int, root: bytes = ROOT) -> list[int]:
        """The short hashes of the leading full blocks, at most `max_blocks`, of `PackedTokens.int32`."""
        if block_size != self._block_size:
            self._known.clear()
            self._block_size = block_size
        parent, found = root, []
        stride = block_size * INT_BYTES
        span = CHUNK_BLOCKS * stride
        end = min(len(tokens) // stride, max_blocks) * stride
        for start in range(0, end, span):
            chunk = tokens[start : min(start + span, end)]
            if len(chunk) < span:  # where prompts end they differ: not worth remembering
                found += chained(parent, chunk, stride)[1]
                break
            known = self._known.get(parent + chunk)
            if known is None:
                known = self._known[parent + chunk] = chained(parent, chunk, stride)
                if len(self._known) > MAX_CHUNKS:
                    self._known.popitem(last=False)
            parent, blocks = known
            found += blocks
        return found
