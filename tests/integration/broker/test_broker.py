"""The broker's set-up: what is wrong is said in one plain sentence."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.api import StreamConfig
from pydantic import SecretStr

from sagellm.broker import Connection, EmbeddedServer, connect, embedded_server, ensure_topology
from sagellm.broker.embedded import find_server
from sagellm.settings import Settings
from sagellm_schemas import BrokerError, subjects


@contextlib.asynccontextmanager
async def server_with(config: str, tmp_path: Path) -> AsyncIterator[str]:
    """A nats-server of somebody else's, with a configuration of theirs; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "theirs.conf"
    path.write_text(f"host: 127.0.0.1\nport: {port}\n{config}")
    process = await asyncio.create_subprocess_exec(
        find_server(), "-c", str(path), stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            while b"Server is ready" not in await process.stderr.readline():
                pass
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.communicate()


async def refusal(settings: Settings) -> str:
    """What connecting with `settings` says."""
    with pytest.raises(BrokerError) as refused:
        async with connect(settings, "test"):
            pass
    return refused.value.message


async def test_a_connection_to_the_embedded_server_has_jetstream(connection: Connection) -> None:
    assert connection.connected
    assert (await connection.js.account_info()).streams > 0


async def test_nothing_listening_is_said_plainly(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{probe.getsockname()[1]}"
    told = await refusal(settings.model_copy(update={"nats_url": url, "nats_connect_timeout_s": 1.0}))
    assert "nothing answers as NATS at 127.0.0.1" in told
    assert "--nats-url" in told


async def test_wrong_credentials_are_said_plainly_and_at_once(settings: Settings) -> None:
    for token in (SecretStr("wrong"), None):
        told = await refusal(settings.model_copy(update={"nats_token": token}))
        assert "refuses our credentials" in told
        assert "SAGELLM_NATS_TOKEN" in told


async def test_a_server_without_jetstream_is_said_plainly(tmp_path: Path) -> None:
    async with server_with("max_payload: 8388608", tmp_path) as url:
        assert "no JetStream" in await refusal(Settings.load(nats_url=url))


async def test_a_max_payload_that_is_too_small_is_said_plainly(tmp_path: Path) -> None:
    async with server_with(f"jetstream: {{ store_dir: '{tmp_path}' }}", tmp_path) as url:
        told = await refusal(Settings.load(nats_url=url))
        assert "max_payload" in told
        assert "1048576" in told


async def test_secrets_do_not_appear_in_what_is_said(settings: Settings) -> None:
    url = settings.nats_url.replace("nats://", "nats://somebody:hush@")
    told = await refusal(settings.model_copy(update={"nats_url": url, "nats_token": None}))
    assert "hush" not in told


async def test_two_servers_on_one_store_are_refused(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="another sageLLM uses the state folder"):
        async with embedded_server(tmp_path / "nats", max_payload_bytes=1 << 20):
            pass


async def test_a_port_that_is_taken_is_said_plainly(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    port = int(nats_server.url.rpartition(":")[2])
    with pytest.raises(BrokerError, match="in use"):
        async with embedded_server(tmp_path / "other", max_payload_bytes=1 << 20, port=port):
            pass


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        async with embedded_server(tmp_path, max_payload_bytes=1 << 20) as server:
            settings = Settings.load(nats_url=server.url, nats_token=server.token, max_message_bytes=1 << 20)
            async with connect(settings, "test") as connection:
                await ensure_topology(connection.js, settings)
                await connection.js.publish(subjects.requests("m"), b"{}")
                info = await connection.js.stream_info(subjects.REQUESTS_STREAM)
                assert info.state.messages == expected


async def test_the_token_is_only_in_a_file_of_ours(nats_server: EmbeddedServer) -> None:
    command = Path(f"/proc/{nats_server.pid}/cmdline").read_bytes().decode()
    assert nats_server.token not in command
    config = Path(next(part for part in command.split("\0") if part.endswith(".conf")))
    assert config.stat().st_mode & 0o077 == 0


async def test_the_topology_can_be_made_again_and_takes_changed_limits(
    settings: Settings, connection: Connection
) -> None:
    await connection.js.publish(subjects.requests("m"), b"{}")
    await ensure_topology(connection.js, settings)
    changed = settings.model_copy(update={"queue_max_messages": 7, "lease_ttl_s": 2.0})
    await ensure_topology(connection.js, changed)
    requests = await connection.js.stream_info(subjects.REQUESTS_STREAM)
    assert requests.config.max_msgs == 7
    assert requests.state.messages == 1
    lease = await connection.js.stream_info(f"KV_{subjects.LEASE_BUCKET}")
    assert lease.config.max_age == 2.0


async def test_many_services_may_make_the_topology_at_once(settings: Settings, connection: Connection) -> None:
    await asyncio.gather(*(ensure_topology(connection.js, settings) for _ in range(5)))


async def test_a_stream_that_cannot_be_ours_is_said_plainly(settings: Settings) -> None:
    async with connect(settings, "test") as connection:
        await connection.js.add_stream(StreamConfig(name="THEIRS", subjects=[subjects.ALL_REQUESTS]))
        with pytest.raises(BrokerError, match=subjects.REQUESTS_STREAM):
            await ensure_topology(connection.js, settings)


async def test_hooks_run_after_a_reconnection(tmp_path: Path) -> None:
    again = asyncio.Event()

    async def hook() -> None:
        again.set()

    async with contextlib.AsyncExitStack() as servers, contextlib.AsyncExitStack() as stack:
        async with embedded_server(tmp_path, max_payload_bytes=1 << 20) as server:
            settings = Settings.load(nats_url=server.url, nats_token=server.token, max_message_bytes=1 << 20)
            connection = await stack.enter_async_context(connect(settings, "test"))
            connection.on_reconnect(hook)
        port = int(server.url.rpartition(":")[2])
        second = embedded_server(tmp_path, max_payload_bytes=1 << 20, port=port, token=server.token)
        servers.push_async_exit(second)
        await second.__aenter__()
        async with asyncio.timeout(10):
            await again.wait()


async def test_a_subject_that_is_not_text_does_not_stop_a_subscriber(
    settings: Settings, connection: Connection
) -> None:
    subscription = await connection.nc.subscribe("names.*")
    await connection.nc.flush()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(settings.nats_url.rpartition(":")[2]))
    await reader.readline()
    token = settings.nats_token.get_secret_value() if settings.nats_token else ""
    writer.write(f'CONNECT {{"verbose":false,"auth_token":"{token}"}}\r\n'.encode())
    writer.write(b"PUB names.\xff 2\r\nhi\r\nPUB names.x 2\r\nho\r\n")
    await writer.drain()
    assert [(await subscription.next_msg(5)).data for _ in range(2)] == [b"hi", b"ho"]
    writer.close()
    await writer.wait_closed()
