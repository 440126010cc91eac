"""The front part of a GGUF file: its metadata, and where each tensor lies.

The gguf package's own reader keeps a numpy view of every token of the vocabulary, which takes seconds; this one
reads the same into plain Python values.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from dataclasses import dataclass
from mmap import mmap

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from sagellm_schemas import ModelLoadError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value type in the file to `struct` format."""
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file. `shape` is in numpy's order, slowest dimension first."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key, and tensors by their GGUF name."""

    metadata: dict[str, object]
    tensors: dict[str, GgufTensor]


def read_header(data: mmap, file: str) -> GgufHeader:
    """The header of the GGUF file mapped as `data`; `file` names it in errors.

    Raises:
        ModelLoadError: it is no GGUF file, of a version we do not read, or damaged, or the file ends before
            its last tensor does.
    """
    if data[:4] != b"GGUF":
        raise ModelLoadError(f"{file} is not a GGUF file: it does not begin with 'GGUF'")
    try:
        return _read(_Cursor(data), file)
    except (struct.error, ValueError, KeyError, RecursionError) as error:
        raise ModelLoadError(f"{file} is damaged or incomplete ({error}); fetch it again") from error


def _read(cursor: "_Cursor", file: str) -> GgufHeader:
    version = int(cursor.number("I"))
    if version not in _VERSIONS:
        raise ModelLoadError(f"{file} is GGUF version {version}; versions 2 and 3, little-endian, are supported")
    tensor_count, key_count = int(cursor.number("Q")), int(cursor.number("Q"))
    metadata: dict[str, object] = {}
    for _ in range(key_count):
        key = cursor.text()
        metadata[key] = cursor.value(int(cursor.number("I")))
    entries = [_tensor_entry(cursor, file) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
        raise ValueError(f"alignment {alignment!r}")
    if any(offset % alignment for _, _, _, offset in entries):
        raise ValueError(f"a tensor that is not aligned to {alignment} bytes")
    begin = math.ceil(cursor.position / alignment) * alignment
    tensors = {
        name: GgufTensor(shape, kind, begin + offset, _size_bytes(name, shape, kind))
        for name, shape, kind, offset in entries
    }
    end = max((t.start + t.size_bytes for t in tensors.values()), default=begin)
    if end > cursor.size:
        raise ValueError(f"it has {cursor.size} bytes of {end}")
    return GgufHeader(metadata, tensors)


def _tensor_entry(cursor: "_Cursor", file: str) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = cursor.text()
    dimensions = int(cursor.number("I"))
    if dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name} has {dimensions} dimensions")
    shape = tuple(int(cursor.number("Q")) for _ in range(dimensions))[::-1]
    kind = int(cursor.number("I"))
    try:
        quantization = GGMLQuantizationType(kind)
    except ValueError:
        raise ModelLoadError(f"{file} has tensor {name} in quantization {kind}, which is not supported") from None
    return name, shape, quantization, int(cursor.number("Q"))


def _size_bytes(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise ValueError(f"tensor {name} of shape {shape} is no whole number of {kind.name} blocks")
    return math.prod(shape) // block * block_bytes


class _Cursor:
    """Reads values one after the other; going past the end raises `struct.error` or ValueError."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self.size = len(data)
        self.position = 4

    def number(self, code: str) -> float:
        """One number, little-endian, of `struct` format `code`."""
        (value,) = struct.unpack_from("<" + code, self._data, self.position)
        self.position += struct.calcsize("<" + code)
        return value  # type: ignore[no-any-return]

    def text(self) -> str:
        """One string: its length in bytes, then UTF-8."""
        return self._texts(1)[0]

    def value(self, kind: int) -> object:
        """A metadata value of type `kind`: a number, a bool, a string, or a list of one of these."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array()
        return self.number(self._code(kind))

    def _array(self) -> list[object]:
        kind, count = int(self.number("I")), int(self.number("Q"))
        # Every item takes at least a byte, so a larger count is damage, and must not become a huge allocation.
        if count > self.size:
            raise ValueError(f"an array of {count} items")
        if kind == _STRING:
            return list(self._texts(count))
        if kind == _ARRAY:
            return [self._array() for _ in range(count)]
        layout = struct.Struct(f"<{count}{self._code(kind)}")
        values = layout.unpack_from(self._data, self.position)
        self.position += layout.size
        return list(values)

    def _texts(self, count: int) -> list[str]:
        data, position = self._data, self.position
        length_at = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            begin = position + 8
            position = begin + length_at(data, position)[0]
            if position > self.size:
                raise ValueError("a string runs past the end of the file")
            found.append(data[begin:position].decode())
        self.position = position
        return found

    @staticmethod
    def _code(kind: int) -> str:
        if kind not in _NUMBERS:
            raise ValueError(f"unknown value type {kind}")
        return _NUMBERS[kind]
