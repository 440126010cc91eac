"""Memory for weights and KV cache, in huge pages where the system has them: fewer misses when it is streamed."""

import contextlib
import ctypes
import mmap

_PIECE_BYTES = 64 << 20
_ALIGNMENT = 64


class Arena:
    """Hands out zeroed memory that lives as long as the arena."""

    def __init__(self) -> None:
        self._pieces: list[mmap.mmap] = []
        self._next = self._end = 0

    def take(self, num_bytes: int) -> int:
        """The address of `num_bytes` of zeros, aligned to a cache line.

        Raises:
            OSError: the system has no memory left.
        """
        if self._next + num_bytes > self._end:
            size = -(-max(num_bytes, _PIECE_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
            piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel built without them
                    piece.madvise(mmap.MADV_HUGEPAGE)
            self._pieces.append(piece)
            self._next = ctypes.addressof(ctypes.c_char.from_buffer(piece))
            self._end = self._next + size
        address = self._next
        self._next += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return address
