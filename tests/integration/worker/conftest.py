"""A driver and the settings of a worker with the mock engine."""

import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings

from .driver import Driver


@pytest.fixture
async def driver(connection: Connection) -> Driver:
    return await Driver(connection).listen()


@pytest.fixture
def mock(settings: Settings) -> Settings:
    """A worker that answers at once."""
    return settings.model_copy(update={"engine": "mock", "model": "mock", "drain_timeout_s": 0.0})


@pytest.fixture
def slow(mock: Settings) -> Settings:
    """A worker whose answers take long: 10,000 tokens at 5 ms."""
    return mock.model_copy(update={"mock_tpot_ms": 5.0})
