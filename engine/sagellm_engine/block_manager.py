"""Which KV block belongs to whom: block ids, reference counts, prefix hashes. Knows no tensor.

A block holds the keys and values of `block_size` consecutive tokens. A full block is known by the hash of its
tokens, all before them and the adapter, so sequences that begin alike share it. A block that no sequence refers
to is free; it keeps its content and its hash until it is taken for something else, least recently used first.
"""

from collections import OrderedDict
from collections.abc import Iterable

from sagellm_schemas.prefix import block_hash, root_of

from .sequence import Sequence


class BlockManager:
    """Blocks 0 … `num_blocks` - 1, handed out to sequences and taken back."""

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._caching = enable_prefix_caching
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # first out first
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._changes: dict[bytes, bool] | None = None

    @property
    def num_free(self) -> int:
        """Blocks that no sequence refers to."""
        return len(self._free)

    def attach_prefix(self, sequence: Sequence) -> int:
        """Give a sequence without blocks those that already hold its first tokens; returns how many tokens.

        The last token is always left to compute, since its logits are needed.
        """
        assert not sequence.blocks, "only a sequence without blocks can start from the prefix cache"
        if not self._caching:
            return 0
        for index in range((len(sequence.token_ids) - 1) // self.block_size):
            block = self._block_of.get(self._hash(sequence, index))
            if block is None:
                break
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1
            sequence.blocks.append(block)
        sequence.num_computed = len(sequence.blocks) * self.block_size
        sequence.num_committed = len(sequence.blocks)
        return sequence.num_computed

    def can_grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether there is room for `num_tokens` beyond those computed."""
        return self._missing(sequence, num_tokens) <= len(self._free)

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Make room for `num_tokens` beyond those computed; `can_grow` must hold."""
        for _ in range(self._missing(sequence, num_tokens)):
            block, _none = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            sequence.blocks.append(block)

    def shrink(self, sequence: Sequence, num_tokens: int) -> None:
        """Give back what is not needed for `num_tokens` beyond those computed: nobody else knows of it."""
        for _ in range(-self._missing(sequence, num_tokens)):
            block = sequence.blocks.pop()
            self._references[block] = 0
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def room(self, sequence: Sequence) -> int:
        """How many tokens beyond those computed its blocks and the free ones hold."""
        return (len(sequence.blocks) + len(self._free)) * self.block_size - sequence.num_computed

    def commit(self, sequence: Sequence) -> None:
        """Let others share the blocks that `num_computed` tokens now fill, all of which are in `token_ids`."""
        if not self._caching:
            return
        full = sequence.num_computed // self.block_size
        for index in range(sequence.num_committed, full):
            name = self._hash(sequence, index)
            if name not in self._block_of:  # else a twin computed it too; the first one stays the shared one
                self._block_of[name] = sequence.blocks[index]
                self._hash_of[sequence.blocks[index]] = name
                if self._changes is not None:
                    self._changes[name] = True
        sequence.num_committed = max(full, sequence.num_committed)

    def release(self, sequence: Sequence, *, forget: bool = False) -> list[int]:
        """Take all blocks back; returns those that are free now.

        What they hold can be shared until they are reused, or from now on not at all with `forget`.
        """
        freed: list[int] = []
        for block in reversed(sequence.blocks):  # the end of a sequence is the least likely to be shared
            self._references[block] -= 1
            if forget:
                self._forget(block)
            if not self._references[block]:
                freed.append(block)
                self._free[block] = None
                if self._hash_of[block] is None:
                    self._free.move_to_end(block, last=False)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_committed = 0
        return freed

    def take_changes(self) -> dict[bytes, bool]:
        """Hashes that blocks have got (True) or lost (False) since the call before; the first call tells all."""
        changes = dict.fromkeys(self._block_of, True) if self._changes is None else self._changes
        self._changes = {}
        return changes

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Assert that the books agree with `sequences`, which are all that hold blocks."""
        counted = [0] * self.num_blocks
        for sequence in sequences:
            assert len(set(sequence.blocks)) == len(sequence.blocks), f"{sequence.id} holds a block twice"
            assert sequence.num_computed <= len(sequence.blocks) * self.block_size, f"{sequence.id} lacks blocks"
            for block in sequence.blocks:
                counted[block] += 1
        assert counted == self._references, "reference counts differ from what sequences hold"
        assert set(self._free) == {b for b, n in enumerate(counted) if not n}, (
            "free blocks are not the unreferenced"
        )
        named = {block: name for block, name in enumerate(self._hash_of) if name is not None}
        assert named == {block: name for name, block in self._block_of.items()}, "hashes and blocks disagree"

    def _missing(self, sequence: Sequence, num_tokens: int) -> int:
        return -(-(sequence.num_computed + num_tokens) // self.block_size) - len(sequence.blocks)

    def _hash(self, sequence: Sequence, index: int) -> bytes:
        hashes = sequence.block_hashes
        while len(hashes) <= index:
            start = len(hashes) * self.block_size
            tokens = sequence.token_ids[start : start + self.block_size]
            hashes.append(block_hash(hashes[-1] if hashes else root_of(sequence.adapter), tokens))
        return hashes[index]

    def _forget(self, block: int) -> None:
        name = self._hash_of[block]
        if name is not None:
            del self._block_of[name]
            self._hash_of[block] = None
            if self._changes is not None:
                self._changes[name] = False
