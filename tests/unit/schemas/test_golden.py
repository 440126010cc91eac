"""The bytes of v1. A change that breaks one of these breaks every client and worker that is out there.

`golden/<name>.json` and `golden/<name>.msgpack` are never changed; a new field gets a new example.
"""

from pathlib import Path

import msgspec
import pytest

from sagellm_schemas import JSON, MSGPACK, Codec, encode, sniff
from sagellm_schemas.asyncapi import channels

from .messages import MESSAGES

GOLDEN = Path(__file__).parents[2] / "golden"
SUFFIXES = {JSON: "json", MSGPACK: "msgpack"}


def golden(name: str, content_type: str) -> bytes:
    return (GOLDEN / f"{name}.{SUFFIXES[content_type]}").read_bytes()


@pytest.mark.parametrize("content_type", SUFFIXES)
@pytest.mark.parametrize("name", MESSAGES)
def test_messages_decode_from_the_golden_bytes_and_encode_to_them_again(name: str, content_type: str) -> None:
    data = golden(name, content_type)
    message = Codec(type(MESSAGES[name])).decode(data, content_type)
    assert message == MESSAGES[name]
    assert encode(message, content_type) == data


@pytest.mark.parametrize("content_type", SUFFIXES)
@pytest.mark.parametrize("name", MESSAGES)
def test_the_format_is_recognized_without_a_header(name: str, content_type: str) -> None:
    data = golden(name, content_type)
    assert sniff(data) == content_type
    assert Codec(type(MESSAGES[name])).decode(data) == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_from_the_future_are_ignored(name: str) -> None:
    fields = msgspec.msgpack.decode(golden(name, MSGPACK))
    data = msgspec.msgpack.encode({"from_the_future": {"a": [1]}} | fields)
    assert Codec(type(MESSAGES[name])).decode(data) == MESSAGES[name]


def test_every_golden_file_is_tested() -> None:
    expected = {f"{name}.{suffix}" for name in MESSAGES for suffix in SUFFIXES.values()}
    assert {path.name for path in GOLDEN.iterdir()} == expected


def test_every_message_of_every_channel_has_golden_bytes() -> None:
    kinds = {kind for channel in channels().values() for kind in (channel.message, *channel.replies)}
    assert {type(message) for message in MESSAGES.values()} == kinds


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_cannot_be_changed_by_accident(name: str) -> None:
    message = MESSAGES[name]
    with pytest.raises(AttributeError):
        setattr(message, next(iter(message.__struct_fields__), "anything"), None)
