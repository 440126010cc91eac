"""Which prompt goes on where another one ended: the next turn of a conversation."""

import hashlib
import secrets
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence

REMEMBERED = 50_000
NAME_BYTES = 6
KEY_BYTES = 16


class Turns:
    """Names prompts as wholes, and finds the longest one lately seen that another begins with.

    A prompt is known by the name of its last full block and by what is left behind that, so that one look-up for
    each block of a new prompt is enough. Names are hashes with a secret that dies with the recording.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._secret = secrets.token_bytes(KEY_BYTES)
        self._names: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """The last full block (0 for none) and the number of tokens left, by name."""
        self._left: dict[int, Counter[int]] = {}
        """The numbers of tokens left behind a block, with how many prompts have so many."""

    def link(self, token_ids: Sequence[int], blocks: Sequence[int]) -> tuple[int, int | None]:
        """The name of a prompt with these `blocks`, and that of the one that it goes on from."""
        found = self._longest(token_ids, blocks)
        last = blocks[-1] if blocks else 0
        left = token_ids[len(blocks) * self._block_tokens :]
        name = self._name(last, left)
        if name in self._names:
            self._names.move_to_end(name)
        else:
            self._names[name] = (last, len(left))
            self._left.setdefault(last, Counter())[len(left)] += 1
            if len(self._names) > REMEMBERED:
                self._forget()
        return name, found

    def _longest(self, token_ids: Sequence[int], blocks: Sequence[int]) -> int | None:
        for count in range(len(blocks), -1, -1):
            last = blocks[count - 1] if count else 0
            start = count * self._block_tokens
            for left in sorted(self._left.get(last, ()), reverse=True):
                if start + left >= len(token_ids):
                    continue
                name = self._name(last, token_ids[start : start + left])
                if name in self._names:
                    return name
        return None

    def _name(self, last: int, left: Sequence[int]) -> int:
        digest = hashlib.blake2b(last.to_bytes(8, "little"), key=self._secret, digest_size=NAME_BYTES)
        digest.update(array("i", left).tobytes())
        return int.from_bytes(digest.digest(), "little")

    def _forget(self) -> None:
        _name, (last, left) = self._names.popitem(last=False)
        counts = self._left[last]
        counts[left] -= 1
        if not counts[left]:
            del counts[left]
        if not counts:
            del self._left[last]
