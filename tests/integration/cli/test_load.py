"""The load generator against a real, small and sometimes bad HTTP server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from sagellm.cli.bench.load import Run, run_load

EVENTS = (
    b'data: {"choices":[{"index":0,"text":"a"}]}\n\n',
    b'data: {"choices":[{"index":0,"text":"b"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
HALF = WHOLE[: len(WHOLE) // 2]


class Server:
    """Answers each request with what `reply` gives for its number; None hangs up."""

    def __init__(self, reply: Callable[[int], bytes | None]) -> None:
        self.connections = 0
        self.requests = 0
        self._reply = reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                reply = self._reply(self.requests)
                self.requests += 1
                if reply is not None:
                    writer.write(reply)
                if reply != WHOLE:
                    break
        writer.close()


@contextlib.asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def load(server: Server, requests: int, concurrency: int) -> Run:
    async with listening(server) as url:
        return await run_load(url, "/v1/completions", [b"{}"] * requests, concurrency, timeout_s=20)


async def test_every_request_is_sent_once_over_as_many_connections_as_asked() -> None:
    server = Server(lambda _: WHOLE)
    run = await load(server, requests=50, concurrency=4)
    assert [sample.error for sample in run.samples] == [None] * 50
    assert all(sample.output_tokens == 2 for sample in run.samples)
    assert (server.requests, server.connections) == (50, 4)


async def test_a_broken_answer_is_an_error_and_the_rest_goes_on() -> None:
    server = Server(lambda number: {3: HALF, 5: None, 7: b"not http\r\n\r\n"}.get(number, WHOLE))
    run = await load(server, requests=20, concurrency=2)
    errors = [sample.error for sample in run.samples if sample.error]
    assert len(run.samples) == 20
    assert len(errors) == 3
    assert server.requests == 20


async def test_a_server_that_is_not_there_fails_every_request() -> None:
    run = await run_load("http://127.0.0.1:1", "/", [b"{}"] * 5, 2, timeout_s=5)
    assert len(run.samples) == 5
    assert all(sample.error for sample in run.samples)
