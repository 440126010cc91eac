"""Background tasks with names: one that dies takes its group along, and says why in the log."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import nats.errors
import nats.js.errors

from sagellm.scheduler.lease import LeaseLost

logger = logging.getLogger(__name__)

STEP_DOWN = (LeaseLost, nats.errors.Error, nats.js.errors.Error, TimeoutError)
"""What ends a term of leadership, but not the service."""


def start(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run `work` in `tasks` as `name`."""
    return tasks.create_task(_explained(work, name), name=name)


async def _explained(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except (*STEP_DOWN, ExceptionGroup):
        raise  # whoever handles it says what it means
    except Exception:
        logger.exception("%s died", name)
        raise
