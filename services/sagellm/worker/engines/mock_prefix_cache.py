"""The mock engine's prefix cache: hashes of blocks, least recently used out first, and no tensors."""

from collections import OrderedDict
from collections.abc import Sequence

from sagellm_schemas.prefix import ROOT, block_hashes

BLOCK_TOKENS = 16


class MockPrefixCache:
    """At most `capacity_blocks` blocks. As in a real cache, a block is only found behind those before it."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity_blocks = capacity_blocks
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self._changes: dict[bytes, bool] = {}

    def read(self, token_ids: Sequence[int], root: bytes = ROOT) -> int:
        """How many leading tokens of a prompt are cached; from now on all of it is.

        The last token is always left to compute. `root` is that of its adapter.
        """
        if not self._capacity_blocks:
            return 0
        hashes = list(block_hashes(token_ids, BLOCK_TOKENS, root))
        cached = 0
        for name in hashes[: (len(token_ids) - 1) // BLOCK_TOKENS]:
            if name not in self._blocks:
                break
            cached += BLOCK_TOKENS
        self._keep(hashes)
        return cached

    def keep(self, token_ids: Sequence[int], root: bytes = ROOT) -> None:
        """Cache prompt and answer of a request that has ended."""
        if self._capacity_blocks:
            self._keep(list(block_hashes(token_ids, BLOCK_TOKENS, root)))

    def take_changes(self) -> dict[bytes, bool]:
        """What has come (True) and gone (False) since the call before."""
        changes, self._changes = self._changes, {}
        return changes

    def _keep(self, hashes: list[bytes]) -> None:
        for name in reversed(hashes):  # the beginning is used last, and so stays longest
            if name not in self._blocks:
                self._changes[name] = True
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._capacity_blocks:
            gone, _none = self._blocks.popitem(last=False)
            self._changes[gone] = False
