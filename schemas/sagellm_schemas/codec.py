"""Bytes to structs and back: JSON or MessagePack, told by the `Content-Type` header or by the first byte."""

from typing import Any, Generic, TypeVar

import msgspec

from .errors import InvalidRequest
from .packed_tokens import PackedTokens

JSON = "application/json"
MSGPACK = "application/msgpack"

T = TypeVar("T")


def _as_json(value: Any) -> list[int]:
    return list(_tokens(value))


def _as_msgpack(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_tokens(value).packed)


def _tokens(value: Any) -> PackedTokens:
    if isinstance(value, PackedTokens):
        return value
    raise NotImplementedError(f"messages have no room for a {type(value).__name__}")


_json_encoder = msgspec.json.Encoder(enc_hook=_as_json)
_msgpack_encoder = msgspec.msgpack.Encoder(enc_hook=_as_msgpack)


def encode(message: Any, content_type: str = MSGPACK) -> bytes:
    """`message` in the given format; unknown content types mean JSON."""
    return _msgpack_encoder.encode(message) if content_type == MSGPACK else _json_encoder.encode(message)


def sniff(data: bytes) -> str:
    """The content type of a message that came without a header: our structs are maps in either format."""
    return MSGPACK if data and (0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)) else JSON


class Codec(Generic[T]):
    """Decoder for one message type.

    Build one per type and keep it: building is the slow part.
    """

    def __init__(self, kind: type[T]) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._name = kind.__name__

    def decode(self, data: bytes, content_type: str | None = None) -> T:
        """Decode `data`.

        Raises:
            InvalidRequest: it is malformed or of the wrong shape; the message says where.
        """
        decoder = self._msgpack if (content_type or sniff(data)) == MSGPACK else self._json
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"not a valid {self._name}: {error}", param=_path(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"not a readable {self._name}: {error}") from None


def _path(message: str) -> str | None:
    """The field msgspec complains of: `Expected … - at `$.sampling.top_p`` gives `sampling.top_p`."""
    _, found, path = message.rpartition("`$.")
    return path.rstrip("`") if found else None
