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

AGAIN_S = 1.0


def start(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run `work` in `tasks` as `name`."""
    return tasks.create_task(_supervised(work, name), name=name)


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel `task` until it has ended, whatever it ends with.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, and with it every request to NATS, forgets a
    cancellation that comes in the same moment as its result.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)


async def _supervised(work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await cancel(task)
        if task.cancelled() or task.exception() is None:
            raise
    try:
        task.result()
    except (*STEP_DOWN, ExceptionGroup):
        raise  # whoever handles it says what it means
    except Exception:
        logger.exception("%s died", name)
        raise
