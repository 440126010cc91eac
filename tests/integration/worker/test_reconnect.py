"""NATS goes away and comes back; what its memory held is gone."""

import contextlib
import socket
from pathlib import Path

from sagellm.broker import connect, embedded_server
from sagellm.settings import Settings
from sagellm_schemas import EngineState, InstanceInfo, Outcome, SamplingParams, subjects
from sagellm_schemas.codec import Codec

from .driver import Driver, working

TOKEN = "of-the-test"


async def test_a_worker_hands_back_what_ran_and_serves_again_after_nats_was_restarted(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def server():
        return embedded_server(tmp_path / "nats", max_payload_bytes=1 << 20, port=port, token=TOKEN)

    settings = Settings.load(
        nats_url=f"nats://127.0.0.1:{port}",
        nats_token=TOKEN,
        max_message_bytes=1 << 20,
        heartbeat_interval_s=0.05,
        engine="mock",
        model="mock",
        mock_tpot_ms=5.0,
        drain_timeout_s=0.0,
    )
    async with contextlib.AsyncExitStack() as servers:
        running = await servers.enter_async_context(contextlib.AsyncExitStack())
        await running.enter_async_context(server())
        async with connect(settings, "test") as connection:
            driver = await Driver(connection).listen()
            async with working(settings, driver):
                await driver.give("a")
                await driver.tokens("a")

                await running.aclose()
                await servers.enter_async_context(server())

                ended = await driver.ended("a")
                assert (ended.outcome, ended.error) == (Outcome.RETURNED, None)
                assert (await driver.state(EngineState.READY)).running == {}
                await driver.give("b", sampling=SamplingParams(max_tokens=3))
                assert (await driver.ended("b")).outcome is Outcome.FINISHED
                instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
                entry = await instances.get(subjects.token(driver.instance))
                assert Codec(InstanceInfo).decode(entry.value or b"").instance_id == driver.instance


async def test_a_worker_can_be_stopped_while_nats_is_away(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as running:
        server = await running.enter_async_context(embedded_server(tmp_path / "nats", max_payload_bytes=1 << 20))
        settings = Settings.load(
            nats_url=server.url,
            nats_token=server.token,
            max_message_bytes=1 << 20,
            engine="mock",
            model="mock",
            drain_timeout_s=0.0,
            publish_timeout_s=0.2,
        )
        async with connect(settings, "test") as connection:
            driver = await Driver(connection).listen()
            async with working(settings, driver):
                await running.aclose()
