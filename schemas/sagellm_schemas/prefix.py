"""Prefix hashes: what names a KV block by the tokens it holds and all tokens before it.

The engine's prefix cache, prefix-aware routing and KV transfer must agree on them, so they live here.
"""

import hashlib
import struct
from array import array
from collections.abc import Iterator, Sequence

HASH_BYTES = 16
SHORT_BYTES = 8
"""Routing is content with the first bytes of a hash: a collision there costs a cache miss, nothing else."""
INT_BYTES = array("i").itemsize
ROOT = b"\0" * HASH_BYTES


def root_of(adapter: str | None) -> bytes:
    """What stands in for the parent of a first block: with an adapter equal tokens have other keys and values."""
    return hashlib.blake2b(adapter.encode(), digest_size=HASH_BYTES).digest() if adapter else ROOT


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Hash of one full block: BLAKE2b over the parent block's hash and the tokens as native int32."""
    digest = hashlib.blake2b(parent, digest_size=HASH_BYTES)
    digest.update(array("i", token_ids).tobytes())
    return digest.digest()


def block_hashes(token_ids: Sequence[int], block_size: int, root: bytes = ROOT) -> Iterator[bytes]:
    """The chained hashes of every full block of `token_ids`, first block first."""
    parent = root
    for start in range(0, len(token_ids) // block_size * block_size, block_size):
        parent = block_hash(parent, token_ids[start : start + block_size])
        yield parent


def short_hash(name: bytes) -> int:
    """The first bytes of a block's hash as a number, which is how routing knows blocks."""
    return int.from_bytes(name[:SHORT_BYTES], "little")


def short_hashes(token_ids: Sequence[int], block_size: int, max_blocks: int, root: bytes = ROOT) -> list[int]:
    """`short_hash` of the leading full blocks, at most `max_blocks`; less than 1 µs a block.

    Another `root` gives other names, by which nobody who does not know it can tell what the tokens are.
    """
    count = min(len(token_ids) // block_size, max_blocks) * block_size
    return chained(root, struct.pack(f"{count}i", *token_ids[:count]), block_size * INT_BYTES)[1]


def chained(parent: bytes, data: bytes, block_bytes: int) -> tuple[bytes, list[int]]:
    """The last hash of a chain that goes on from `parent` over blocks of native int32, and all of it in short."""
    names, blake2b = [], hashlib.blake2b
    for start in range(0, len(data), block_bytes):
        parent = blake2b(parent + data[start : start + block_bytes], digest_size=HASH_BYTES).digest()
        names.append(parent)
    return parent, [first for first, _rest in struct.iter_unpack("<QQ", b"".join(names))]
