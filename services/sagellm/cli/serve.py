"""One service as a process: logging, the event loop, signals, exit codes."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from sagellm import logs
from sagellm.garbage import rare_garbage_collection
from sagellm.settings import Settings
from sagellm_schemas import SageError

from .errors import reason_of
from .exits import EXIT_CRASHED, EXIT_FORCED

Service = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]

logger = logging.getLogger(__name__)


def serve(name: str, service: Service, settings: Settings) -> None:
    """Run `service` until SIGTERM or SIGINT asks it to drain; a second signal ends the process at once.

    Raises:
        SageError: the service cannot run; the message says what to do.
        SystemExit: with EXIT_CRASHED after anything else went wrong; the log has the traceback.
    """
    logs.configure(settings.log_level, name)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_until_signalled(service, settings))
    except SageError:
        raise
    except BaseExceptionGroup as group:
        reason = reason_of(group)
        if reason is None:
            _crash(group)
        raise reason from None
    except Exception as error:
        _crash(error)


async def _until_signalled(service: Service, settings: Settings) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("second signal: leaving at once")
            os._exit(EXIT_FORCED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    with rare_garbage_collection():
        await service(settings, stop)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one; None means asyncio's own."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop


def _crash(error: BaseException) -> NoReturn:
    logger.critical("stopped by an error that should not happen; please report it", exc_info=error)
    raise SystemExit(EXIT_CRASHED) from None
