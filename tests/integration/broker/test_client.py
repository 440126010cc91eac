"""The client's short way, against a real server."""

import asyncio
import contextlib
from pathlib import Path

import nats
import nats.errors
import pytest

from sagellm.broker import Client, Connection, EmbeddedServer, Message, connect, embedded_server
from sagellm.settings import Settings


class Received:
    """A handler that keeps what it gets; `wait(n)` returns when it has `n` messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._came = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._came.set()

    async def wait(self, count: int) -> list[Message]:
        async with asyncio.timeout(10):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages


async def test_messages_arrive_in_order_with_subject_reply_and_headers(connection: Connection) -> None:
    received = Received()
    await connection.nc.handle("a.>", received)
    await connection.nc.flush()
    connection.nc.send("a.1", b"one")
    connection.nc.send("a.2", b"two", reply="back.to.me")
    connection.nc.send("a.3", b"", headers={"Nats-Msg-Id": "7", "Two": "lines\r\nInjected: no"})
    await connection.nc.publish("a.4", b"nats-py's own")
    first, second, third, fourth = await received.wait(4)
    assert first == Message("a.1", "", b"one", {})
    assert second == Message("a.2", "back.to.me", b"two", {})
    assert third == Message("a.3", "", b"", {"Nats-Msg-Id": "7", "Two": "lines  Injected: no"})
    assert fourth.data == b"nats-py's own"


async def test_large_messages_and_requests_of_nats_py_go_through_beside_each_other(connection: Connection) -> None:
    received = Received()
    await connection.nc.handle("large", received)
    bodies = [bytes([i]) * (1_000_000 - i) for i in range(8)]
    for body in bodies:
        connection.nc.send("large", body)
        await connection.js.account_info()
    assert [message.data for message in await received.wait(8)] == bodies


async def test_a_handler_that_raises_gets_the_next_message_all_the_same(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    received = Received()

    def choosy(message: Message) -> None:
        if message.data == b"bad":
            raise ValueError("no")
        received(message)

    await connection.nc.handle("a", choosy)
    connection.nc.send("a", b"bad")
    connection.nc.send("a", b"good")
    assert [message.data for message in await received.wait(1)] == [b"good"]
    assert "was not handled" in caplog.text


async def test_a_subject_that_is_not_utf8_stops_nothing(
    connection: Connection, nats_server: EmbeddedServer
) -> None:
    received = Received()
    await connection.nc.handle("a.>", received)
    await connection.nc.flush()
    host, port = nats_server.url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(b'CONNECT {"auth_token":"%b","verbose":false}\r\n' % nats_server.token.encode())
    writer.write(b"PUB a.\xff\xfe 1\r\nx\r\nPUB a.b 1\r\ny\r\n")
    messages = await received.wait(2)
    writer.close()
    assert [(message.subject, message.data) for message in messages] == [("a.\ufffd\ufffd", b"x"), ("a.b", b"y")]


async def test_nothing_comes_after_the_end_of_handling(connection: Connection) -> None:
    received = Received()
    async with connection.nc.handling("a", received):
        connection.nc.send("a", b"1")
        await received.wait(1)
    connection.nc.send("a", b"2")
    await connection.nc.flush()
    assert len(received.messages) == 1


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 1", "a\x00"])
async def test_a_subject_that_would_break_the_protocol_is_refused(connection: Connection, subject: str) -> None:
    with pytest.raises(nats.errors.BadSubjectError):
        connection.nc.send(subject, b"x")
    with pytest.raises(nats.errors.BadSubjectError):
        connection.nc.send("a", b"x", reply=subject or " ")


async def test_a_message_over_the_limit_is_refused(connection: Connection) -> None:
    with pytest.raises(nats.errors.MaxPayloadError):
        connection.nc.send("a", bytes(connection.nc.max_payload + 1))


async def test_what_is_sent_before_closing_arrives(connection: Connection, settings: Settings) -> None:
    received = Received()
    await connection.nc.handle("a", received)
    await connection.nc.flush()
    async with connect(settings, "short") as other:
        for _ in range(100):
            other.nc.send("a", b"x" * 1000)
    await received.wait(100)
    with pytest.raises(nats.errors.ConnectionClosedError):
        other.nc.send("a", b"x")


async def test_handlers_live_on_after_a_reconnection_and_what_was_sent_meanwhile_arrives(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(embedded_server(tmp_path, max_payload_bytes=1 << 20))
        port = int(server.url.rpartition(":")[2])
        lost, back = asyncio.Event(), asyncio.Event()

        async def on_lost() -> None:
            lost.set()

        async def on_back() -> None:
            back.set()

        client = Client()
        await client.connect(
            f"nats://127.0.0.1:{port}",
            token=server.token,
            disconnected_cb=on_lost,
            reconnected_cb=on_back,
            reconnect_time_wait=0.05,
            max_reconnect_attempts=-1,
            pending_size=100_000,
        )
        received = Received()
        await client.handle("a", received)
        await client.flush()
        server.process.kill()
        await asyncio.wait_for(lost.wait(), 10)
        client.send("a", b"meanwhile")
        with pytest.raises(nats.errors.OutboundBufferLimitError):
            client.send("a", bytes(200_000))
        await stack.aclose()
        again = await stack.enter_async_context(
            embedded_server(tmp_path, max_payload_bytes=1 << 20, port=port, token=server.token)
        )
        assert again.url == server.url
        await asyncio.wait_for(back.wait(), 10)
        client.send("a", b"after")
        assert [message.data for message in await received.wait(2)] == [b"meanwhile", b"after"]
        await client.close()
