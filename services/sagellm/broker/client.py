"""The NATS client, with a short way for what happens with every request.

A message takes nats-py five turns of the event loop: its reader, the subscription's queue and task, and on the way
out the flusher. A request makes three such hops before its first token. So messages of subscriptions made with
`handle` go to their handlers as their bytes arrive, and what is sent with `send` leaves at the end of the turn.

Connecting, reconnecting, TLS, requests and JetStream stay nats-py's: bytes that are not for a handler are passed
on to its reader. Where a transport has no such reader (WebSocket), everything goes nats-py's way.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

logger = logging.getLogger(__name__)

WRITE_BUFFER_BYTES = 4 << 20
"""While the socket has more than this to write, messages wait in the client, where their number is bounded."""
BUSY_S = 0.001
"""After a write, messages of so long a time leave together at the end of each turn; before, each at once."""
RETRY_S = 0.01
READ_BYTES = 64 << 10
"""After a piece of this size others get their turn: libuv would go on reading, up to 32 pieces of 256 KB, and
when a queue is replayed that is a second's work."""

_subject_is_sound = re.compile(r"[^\x00-\x20\x7f]+").fullmatch
_NEWLINES = str.maketrans("\r\n", "  ")


class Message(msgspec.Struct, frozen=True):
    """A message that was received. A subject that is not UTF-8 has replacement characters."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str]


Handler = Callable[[Message], None]


class Client(NatsClient):
    """nats-py's client with `handle` and `send`."""

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, Handler] = {}
        self._write_due = False
        self._quiet_until = 0.0

    async def handle(self, subject: str, handler: Handler) -> Subscription:
        """Subscribe; `handler` gets every message in order, without limit, and must not wait.

        What it raises is logged, and does not concern the messages after.
        """

        async def on_message(msg: Msg) -> None:  # for those that come nats-py's way
            _give(handler, Message(msg.subject, msg.reply, msg.data, msg.headers or {}))

        subscription: Subscription = await self.subscribe(
            subject, cb=on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._handlers[subscription._id] = handler
        return subscription

    @contextlib.asynccontextmanager
    async def handling(self, subject: str, handler: Handler) -> AsyncIterator[None]:
        """`handle` for as long as the context lasts."""
        subscription = await self.handle(subject, handler)
        try:
            yield
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def send(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish without waiting. Messages leave in the order of the calls, those of `publish` included.

        While the connection is down they are kept, up to the client's `pending_size`.

        Raises:
            nats.errors.BadSubjectError: `subject` or `reply` is empty, or has spaces or control characters.
            nats.errors.MaxPayloadError: the server takes no message of this size.
            nats.errors.OutboundBufferLimitError: the buffer is full.
            nats.errors.ConnectionClosedError: the client was closed.
        """
        if not _subject_is_sound(subject) or (reply and not _subject_is_sound(reply)):
            raise nats.errors.BadSubjectError
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        size = len(payload)
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError
        if self._pending_data_size + size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        to = f"{subject} {reply}" if reply else subject
        if headers is None:
            command = b"PUB %b %d\r\n%b\r\n" % (to.encode(), size, payload)
        else:
            block = _header_block(headers)
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), len(block), len(block) + size, block, payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._write_due:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._quiet_until:
            self._write()
        else:
            self._write_due = True
            loop.call_soon(self._write)

    def _write(self) -> None:
        """Hand what is pending to the socket, in one piece: a system call costs more than a message."""
        self._write_due = False
        if not self._pending or not self.is_connected or self.is_closed:
            return  # a reconnection ends with a flush
        transport = self._transport
        assert transport is not None
        writer = getattr(transport, "_io_writer", None)
        backlog = writer.transport.get_write_buffer_size() if writer is not None else 0
        # A reconnection subscribes anew first: what is sent before could be answered to nobody.
        if backlog > WRITE_BUFFER_BYTES or self._reconnection_task_future is not None:
            self._write_due = True
            asyncio.get_running_loop().call_later(RETRY_S, self._write)
            return
        self._quiet_until = asyncio.get_running_loop().time() + BUSY_S
        transport.writelines(self._pending)
        self._pending = []
        self._pending_data_size = 0

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        reader = getattr(self._transport, "_io_reader", None)
        if isinstance(reader, asyncio.StreamReader):
            _Splitter(self._handlers, reader)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._handlers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        # nats-py's reading would stop for good at a subject that is not UTF-8, which the server lets pass.
        return self.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )


class _Splitter:
    """Stands before the reader of one connection: messages with a handler are handled, the rest is passed on."""

    def __init__(self, handlers: dict[int, Handler], reader: asyncio.StreamReader) -> None:
        self._handlers = handlers
        self._pass_on = reader.feed_data
        self._held = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport = reader._transport  # type: ignore[attr-defined]
        early = bytes(reader._buffer)  # type: ignore[attr-defined]
        reader._buffer.clear()  # type: ignore[attr-defined]
        reader.feed_data = self.receive  # type: ignore[assignment, method-assign]
        if early:
            self.feed(early)

    def receive(self, data: bytes) -> None:
        """Take what the socket has received; of much, no more before others had their turn."""
        if len(data) >= READ_BYTES:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)
        self.feed(data)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def feed(self, data: bytes) -> None:
        """Handle these bytes. A message that is not complete is held until it is."""
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        rest: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._needed = 0
                break
            begin = line_end + 2
            if not data.startswith((b"MSG ", b"HMSG "), at):
                rest.append(data[at:begin])
                at = begin
                continue
            words = data[at:line_end].split()
            try:
                sid, stop = int(words[2]), begin + int(words[-1])
            except (ValueError, IndexError):  # nats-py knows what to do about a broken stream
                rest.append(data[at:])
                at = end
                break
            if stop + 2 > end:
                self._needed = stop + 2 - at
                break
            handler = self._handlers.get(sid)
            if handler is None:
                rest.append(data[at : stop + 2])
            else:
                _give(handler, _message(words, data, begin, stop))
            at = stop + 2
        if at < end:
            self._held += data[at:]
        if rest:
            self._pass_on(b"".join(rest))


def _message(words: list[bytes], data: bytes, begin: int, stop: int) -> Message:
    """From `MSG subject sid [reply] size` or `HMSG subject sid [reply] header_size size` and what follows."""
    subject = words[1].decode(errors="replace")
    if len(words[0]) == 3:
        reply = words[3].decode(errors="replace") if len(words) == 5 else ""
        return Message(subject, reply, data[begin:stop], {})
    reply = words[3].decode(errors="replace") if len(words) == 6 else ""
    body = begin + int(words[-2])
    return Message(subject, reply, data[body:stop], _headers(data[begin:body]))


def _headers(block: bytes) -> dict[str, str]:
    """The headers of a message. A status is left out.

    Names that come twice have their first value; but the server's own (`Nats-…`) have their last, for it adds
    them after those of the client, who could otherwise speak in its name.
    """
    found: dict[str, str] = {}
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            continue
        if name.startswith("Nats-"):
            found[name.strip()] = value.strip()
        else:
            found.setdefault(name.strip(), value.strip())
    return found


def _header_block(headers: Mapping[str, str]) -> bytes:
    lines = [f"{name}: {value.translate(_NEWLINES)}" for name, value in headers.items()]
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()


def _give(handler: Handler, message: Message) -> None:
    try:
        handler(message)
    except Exception:
        logger.exception("a message on %.200s was not handled", message.subject)
