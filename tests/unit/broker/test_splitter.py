"""What the socket receives is given to handlers and to nats-py's reader, wherever the pieces are cut."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from sagellm.broker.client import READ_BYTES, Handler, Message, _Splitter

OURS, OURS_TOO, THEIRS = 1, 2, 3

subjects = st.text(st.characters(codec="utf-8", min_codepoint=0x21, exclude_characters="\x7f"), min_size=1)
headers = st.dictionaries(
    st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True), st.from_regex(r"[a-z0-9:]{0,9}", fullmatch=True)
)
messages = st.tuples(
    st.sampled_from([OURS, OURS_TOO, THEIRS]),
    subjects.filter(lambda text: not text[0].isspace() and len(text.split()) == 1),
    st.sampled_from(["", "_INBOX.a.b"]),
    st.binary(max_size=300),
    headers,
)
lines = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a": 1}\r\n', b"-ERR 'x'\r\n"])


class FakeTransport:
    """Tells whether the socket is being read."""

    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


class FakeReader:
    """As much of a StreamReader as the splitter touches."""

    def __init__(self, early: bytes) -> None:
        self._buffer = bytearray(early)
        self._transport = FakeTransport()
        self.got = b""

    def feed_data(self, data: bytes) -> None:
        self.got += data


def wire(sid: int, subject: str, reply: str, data: bytes, headers: dict[str, str]) -> bytes:
    to = f"{subject} {sid} {reply} ".replace("  ", " ")
    if not headers:
        return f"MSG {to}{len(data)}\r\n".encode() + data + b"\r\n"
    block = "".join(["NATS/1.0\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"]).encode()
    return f"HMSG {to}{len(block)} {len(block) + len(data)}\r\n".encode() + block + data + b"\r\n"


@given(st.lists(st.one_of(messages, lines)), st.lists(st.integers(1, 500)), st.integers(0, 50))
def test_every_message_reaches_its_handler_and_every_other_byte_the_reader(
    items: list[tuple[int, str, str, bytes, dict[str, str]] | bytes], cuts: list[int], early: int
) -> None:
    received: dict[int, list[Message]] = {OURS: [], OURS_TOO: []}
    handlers: dict[int, Handler] = {sid: into.append for sid, into in received.items()}
    stream = b"".join(item if isinstance(item, bytes) else wire(*item) for item in items)
    reader = FakeReader(stream[:early])
    splitter = _Splitter(handlers, reader)  # type: ignore[arg-type]
    at = early
    for size in [*cuts, len(stream)]:
        splitter.feed(stream[at : at + size])
        at += size
    assert reader.got == b"".join(
        item if isinstance(item, bytes) else wire(*item)
        for item in items
        if isinstance(item, bytes) or item[0] == THEIRS
    )
    for sid, into in received.items():
        assert into == [
            Message(subject, reply, data, headers)
            for owner, subject, reply, data, headers in (i for i in items if not isinstance(i, bytes))
            if owner == sid
        ]


def test_a_stream_that_is_not_nats_is_left_to_nats_py() -> None:
    reader = FakeReader(b"")
    splitter = _Splitter({OURS: lambda _: None}, reader)  # type: ignore[arg-type]
    splitter.feed(b"MSG nonsense\r\nand more")
    assert reader.got == b"MSG nonsense\r\nand more"


async def test_a_real_reader_can_be_split() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"PING\r\n")
    got: list[Message] = []
    _Splitter({OURS: got.append}, reader)
    reader.feed_data(b"MSG a 1 2\r\nhi\r\nPONG\r\n")
    assert await reader.read(100) == b"PING\r\nPONG\r\n"
    assert [message.data for message in got] == [b"hi"]


async def test_after_a_large_piece_others_get_their_turn_before_more_is_read() -> None:
    reader = FakeReader(b"")
    splitter = _Splitter({OURS: lambda _: None}, reader)  # type: ignore[arg-type]
    splitter.receive(wire(OURS, "a", "", b"x" * READ_BYTES, {}))
    assert not reader._transport.reading
    await asyncio.sleep(0)
    assert reader._transport.reading
