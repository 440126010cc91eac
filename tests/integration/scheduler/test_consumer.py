"""The leader's consumer of the durable queue, as it stands by while messages come."""

import asyncio
import logging
import time

import pytest

from sagellm.broker import Connection
from sagellm.scheduler.timings import Timings
from sagellm.settings import Settings

from .fakes import FakeReader, FakeWorker, scheduling

BEAT_S = 0.1


async def test_a_consumer_that_brings_messages_now_and_then_is_not_taken_for_silent(
    settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While messages come, the server sends no heartbeats."""
    of = Timings.of

    def impatient(settings: Settings) -> Timings:
        timings = of(settings)
        object.__setattr__(timings, "consumer_heartbeat_s", BEAT_S)
        return timings

    monkeypatch.setattr(Timings, "of", impatient)
    reader = await FakeReader(connection).start()
    with caplog.at_level(logging.WARNING):
        async with scheduling(settings), FakeWorker(settings, "w1", auto=True) as worker:
            until_s, sent = time.monotonic() + 12 * BEAT_S, 0
            while time.monotonic() < until_s:
                await reader.send(f"r{sent}")
                await worker.items.next()
                sent += 1
                await asyncio.sleep(BEAT_S / 4)  # the pace of the traffic, not a wait
    assert "is silent" not in caplog.text
    assert sent < 128
