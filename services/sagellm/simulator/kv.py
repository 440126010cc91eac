"""The KV cache of a simulated instance: how many blocks are held, and which are known by their prefix.

It counts what the engine's block manager hands out, without block ids. A block whose tokens are known by their
hash stays after its last holder, until room is needed: least recently used first.
"""

from collections import OrderedDict
from collections.abc import Sequence


class Holding:
    """The blocks of one sequence: those that are known by hash, and how many more are its own.

    `committed` of its first blocks have been offered to others.
    """

    __slots__ = ("committed", "private", "shared")

    def __init__(self) -> None:
        self.shared: list[bytes] = []
        self.private = 0
        self.committed = 0

    def __len__(self) -> int:
        return len(self.shared) + self.private


class KvCache:
    """`num_blocks` blocks of `block_size` tokens."""

    def __init__(self, num_blocks: int, block_size: int, *, sharing: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._sharing = sharing
        self._held = 0
        self._references: dict[bytes, int] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._news: dict[bytes, bool] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, whether their content is known or not."""
        return self.num_blocks - self._held

    @property
    def known(self) -> list[bytes]:
        """Hashes of all blocks that can be shared."""
        return [*self._references, *self._idle]

    def blocks(self, tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-tokens // self.block_size)

    def hits(self, hashes: Sequence[bytes], limit: int) -> int:
        """How many of the first `limit` blocks are here, from the first one on without a gap."""
        if not self._sharing:
            return 0
        count = 0
        for name in hashes[:limit]:
            if name not in self._references and name not in self._idle:
                break
            count += 1
        return count

    def can_hold(self, hashes: Sequence[bytes], hits: int, blocks: int) -> bool:
        """Whether `blocks` in all fit, of which the first `hits` are here."""
        idle = sum(name in self._idle for name in hashes[:hits])
        return blocks - hits + idle <= self.num_free

    def touch(self, hashes: Sequence[bytes]) -> None:
        """Somebody has looked for these blocks, which are here: those that nobody holds count as just used."""
        for name in reversed(hashes):
            if name in self._idle:
                self._idle.move_to_end(name)

    def share(self, holding: Holding, hashes: Sequence[bytes]) -> None:
        """Give an empty holding blocks that are here."""
        for name in hashes:
            if name in self._idle:
                del self._idle[name]
                self._references[name] = 1
                self._held += 1
            else:
                self._references[name] += 1
        holding.shared = list(hashes)
        holding.committed = len(holding.shared)

    def take(self, count: int) -> None:
        """Hand out so many blocks, which must be free; the callers count them in their holdings."""
        assert count <= self.num_free, "more blocks than are free"
        self._held += count
        room = self.num_free
        while len(self._idle) > room:
            self._tell(self._idle.popitem(last=False)[0], here=False)

    def commit(self, holding: Holding, hashes: Sequence[bytes], full_blocks: int) -> None:
        """Let others share what the first `full_blocks` blocks hold now; a twin of a known block stays private."""
        if not self._sharing:
            return
        for name in hashes[holding.committed : full_blocks]:
            if name not in self._references and name not in self._idle:
                holding.private -= 1
                holding.shared.append(name)
                self._references[name] = 1
                self._tell(name, here=True)
        holding.committed = max(holding.committed, min(full_blocks, len(hashes)))

    def release(self, holding: Holding) -> None:
        """Take all its blocks back; those that are known can still be shared."""
        self._held -= holding.private
        for name in reversed(holding.shared):  # the end of a sequence is the least likely to be shared
            self._references[name] -= 1
            if not self._references[name]:
                del self._references[name]
                self._idle[name] = None
                self._held -= 1
        holding.private = 0
        holding.shared = []
        holding.committed = 0

    def news(self) -> tuple[list[bytes], list[bytes]]:
        """Blocks that can be shared since the last call, and those that cannot any more."""
        came = [name for name, here in self._news.items() if here]
        went = [name for name, here in self._news.items() if not here]
        self._news.clear()
        return came, went

    def _tell(self, name: bytes, *, here: bool) -> None:
        if self._news.get(name, here) is here:
            self._news[name] = here
        else:
            del self._news[name]

    def check_integrity(self, holdings: Sequence[Holding]) -> None:
        """Assert that the books agree with `holdings`, which are all there are."""
        counted: dict[bytes, int] = {}
        for holding in holdings:
            for name in holding.shared:
                counted[name] = counted.get(name, 0) + 1
        assert counted == self._references, "references differ from what sequences hold"
        assert self._held == len(counted) + sum(h.private for h in holdings), "held blocks are miscounted"
        assert self._held + len(self._idle) <= self.num_blocks, "more blocks than there are"
        assert not counted.keys() & self._idle.keys(), "a held block counts as idle"
