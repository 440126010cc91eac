"""Managers with an embedded NATS server, a scheduler and mock engines, for each test."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from sagellm import ControlPlaneManager, ExecutionInstance, RequestMetadata
from sagellm.settings import Settings

MODEL = "a/model"
WORDS = "every good boy does fine "

Managing = Callable[..., AbstractAsyncContextManager[ControlPlaneManager]]


@contextlib.asynccontextmanager
async def started(*instances: ExecutionInstance, **options: Any) -> AsyncIterator[ControlPlaneManager]:
    """A manager that runs `instances`."""
    settings = Settings.load(heartbeat_interval_s=0.05, heartbeat_timeout_s=1.0, storage="memory")
    manager = ControlPlaneManager(**{"settings": settings} | options)
    for instance in instances:
        manager.register_instance(instance)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


@pytest.fixture
def managing() -> Managing:
    return started


def mock(
    instance_id: str = "mock", *, at_once: int = 10, tpot_ms: float = 0.0, **fields: Any
) -> ExecutionInstance:
    """An instance of the mock engine."""
    return ExecutionInstance(
        instance_id=instance_id,
        **{
            "model_name": MODEL,
            "max_concurrent_requests": at_once,
            "metadata": {"engine": "mock", "mock_text": WORDS, "mock_tpot_ms": tpot_ms},
        }
        | fields,
    )


def asking(**fields: Any) -> RequestMetadata:
    """A request of eight tokens."""
    return RequestMetadata(**{"prompt": "Hello", "max_tokens": 8, "model_name": MODEL} | fields)
