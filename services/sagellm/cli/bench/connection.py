"""One keep-alive HTTP/1.1 connection for load: asyncio's transport under httptools' C parser.

The general clients spend 100 µs and more of Python on each piece of a stream; here a piece costs the parser, one
clock reading and one append, and everything else waits until the answer has ended.
"""

import asyncio
import time
from urllib.parse import SplitResult, urlsplit

import httptools

from sagellm_schemas import InvalidRequest


class Answer:
    """One HTTP answer: its status, and its body in pieces, each with its arrival by `time.perf_counter`."""

    __slots__ = ("arrivals_s", "pieces", "sent_s", "status")

    def __init__(self) -> None:
        self.status = 0
        self.sent_s = 0.0
        self.pieces: list[bytes] = []
        self.arrivals_s: list[float] = []


class Connection(asyncio.Protocol):
    """Sends one request at a time; `open_connection` makes it."""

    def __init__(self, host_header: str) -> None:
        self._host = host_header
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer = Answer()
        self._ended: asyncio.Future[None] | None = None
        self._now_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def post(self, path: str, body: bytes) -> Answer:
        """Send `body` as JSON and wait for the whole answer.

        Raises:
            ConnectionError: the server closed the connection before the answer had ended.
        """
        if self._transport is None:
            raise ConnectionError("the connection is closed")
        self._answer = answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        answer.sent_s = time.perf_counter()
        self._transport.write(head.encode() + body)
        await self._ended
        return answer

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(ConnectionError(f"the connection broke off ({exc or 'closed by the server'})"))

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ConnectionError(f"not an HTTP answer: {error}"))
            self.close()

    # httptools' callbacks

    def on_body(self, body: bytes) -> None:
        self._answer.pieces.append(body)
        self._answer.arrivals_s.append(self._now_s)

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._answer.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if not self._parser.should_keep_alive():
            self.close()
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


async def open_connection(url: str) -> Connection:
    """Connect to the server of `url`.

    Raises:
        OSError: it does not listen.
    """
    parts = parse_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(parts.netloc), parts.hostname or "", port, ssl=parts.scheme == "https" or None
    )
    return connection


def parse_url(url: str) -> SplitResult:
    """The parts of an http or https URL.

    Raises:
        InvalidRequest: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is not a URL like http://127.0.0.1:8000")
    return parts
