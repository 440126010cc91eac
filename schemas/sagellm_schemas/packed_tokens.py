"""Token ids that are kept for long, as they go over the wire."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[int])


class PackedTokens(Sequence[int]):
    """A sequence of token ids in about 7 bytes for each, where a list takes 36 and the garbage collector's time.

    `packed` is MessagePack, as messages take it; `int32` are native integers, as prefix hashes take them, or
    nothing where an id is too large. All but its length has to be unpacked: make a list to see more than one.
    """

    __slots__ = ("_count", "int32", "packed")

    def __init__(self, token_ids: Iterable[int]) -> None:
        listed = token_ids if isinstance(token_ids, list) else list(token_ids)
        self.packed = _encoder.encode(listed)
        self._count = len(listed)
        try:
            self.int32 = struct.pack(f"{self._count}i", *listed)
        except struct.error:
            self.int32 = b""

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self._unpacked()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._unpacked())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._unpacked() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedTokens({self._unpacked()})"

    def _unpacked(self) -> list[int]:
        return _decoder.decode(self.packed)
