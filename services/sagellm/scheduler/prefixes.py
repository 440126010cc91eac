"""Which instances hold which prefix blocks of a model. Pure: the simulator fills it too."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

BLOCK_SIZE = 16
"""Tokens of a block, until an instance says otherwise."""
MAX_HELD_BLOCKS = 65_536
"""Blocks remembered of one instance; the oldest go first. Of an engine that tells nothing is only known what was
routed to it, and never that it was dropped."""

Level = tuple[int, int]
"""A number of leading blocks, and the set of those who hold them all, as a bit mask of slots."""


class PrefixIndex:
    """Short hashes of blocks (`sagellm_schemas.prefix`) to the instances that hold them.

    A set of instances is an integer with one bit per slot, so following a prompt through the index costs one
    look-up and one `and` a block, however many instances there are.
    """

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self._holders: dict[int, int] = {}
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []
        self._bits: list[int] = []
        self._held: list[OrderedDict[int, None]] = []
        self._free_slots: list[int] = []

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, instance_id: str, blocks: Iterable[int]) -> None:
        """The instance holds these, or will as soon as it has computed what was sent to it."""
        slot = self._slot(instance_id)
        bit, held, holders = self._bits[slot], self._held[slot], self._holders
        for block in blocks:
            if block not in held:
                held[block] = None
                others = holders.get(block)
                holders[block] = bit if others is None else others | bit
        while len(held) > MAX_HELD_BLOCKS:
            self._forget(slot, held.popitem(last=False)[0])

    def remove(self, instance_id: str, blocks: Iterable[int]) -> None:
        """The instance holds these no more."""
        slot = self._slots.get(instance_id)
        if slot is not None:
            for block in blocks:
                if block in self._held[slot]:
                    self._drop(slot, block)

    def clear(self, instance_id: str) -> None:
        """The instance holds nothing, or has gone."""
        slot = self._slots.pop(instance_id, None)
        if slot is not None:
            for block in list(self._held[slot]):
                self._drop(slot, block)
            self._free_slots.append(slot)

    def use_block_size(self, block_size: int) -> None:
        """Know blocks of so many tokens from now on; what is known of others is dropped."""
        if block_size != self.block_size:
            for instance_id in list(self._slots):
                self.clear(instance_id)
            self.block_size = block_size

    def levels(self, blocks: Sequence[int]) -> list[Level]:
        """Who holds how many of the leading `blocks`, fewest blocks first; each level's holders are among those of
        the level before. Nobody holds more than the last level says; whoever is in none holds nothing."""
        levels: list[Level] = []
        present = 0
        for depth, block in enumerate(blocks):
            holders = self._holders.get(block, 0)
            if depth:
                holders &= present
                if holders != present:
                    levels.append((depth, present))
            if not holders:
                return levels
            present = holders
        if present:
            levels.append((len(blocks), present))
        return levels

    def held(self, instance_id: str, levels: Sequence[Level]) -> int:
        """How many leading blocks of those that `levels` is about an instance holds."""
        slot = self._slots.get(instance_id)
        if slot is not None:
            for depth, holders in reversed(levels):
                if holders >> slot & 1:
                    return depth
        return 0

    def ids(self, holders: int, start: int, limit: int) -> list[str]:
        """At most `limit` ids of a set of holders, those from slot `start` on first."""
        found: list[str] = []
        for part in ((holders >> start) << start, holders & ((1 << start) - 1)):
            rest = part
            while rest and len(found) < limit:
                lowest = rest & -rest
                found.append(self._ids[lowest.bit_length() - 1])
                rest ^= lowest
        return found

    @property
    def slots(self) -> int:
        """Slots are numbered below this."""
        return len(self._ids)

    def _slot(self, instance_id: str) -> int:
        slot = self._slots.get(instance_id)
        if slot is None:
            if self._free_slots:
                slot = self._free_slots.pop()
                self._ids[slot] = instance_id
            else:
                slot = len(self._ids)
                self._ids.append(instance_id)
                self._bits.append(1 << slot)
                self._held.append(OrderedDict())
            self._slots[instance_id] = slot
        return slot

    def _drop(self, slot: int, block: int) -> None:
        del self._held[slot][block]
        self._forget(slot, block)

    def _forget(self, slot: int, block: int) -> None:
        left = self._holders[block] & ~self._bits[slot]
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
