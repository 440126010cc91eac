"""Noticing that a client has gone, without a task for each request."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from starlette.types import Message, Receive


class DisconnectWatch:
    """Calls `on_gone` when the ASGI server says `http.disconnect`, for as long as the context lasts.

    The server's `receive()` is a coroutine that waits on one future. It is driven here by callbacks of that
    future: a task would do the same, but starting and cancelling one costs a tenth of a whole request.
    """

    __slots__ = ("_loop", "_on_gone", "_receive", "_waiting")

    def __init__(self, receive: Receive, on_gone: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._loop = loop
        self._waiting: Coroutine[Any, Any, Message] | None = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close()

    def _begin(self) -> None:
        self._waiting = self._receive()  # type: ignore[assignment]
        self._step()

    def _step(self, done: "asyncio.Future[Any] | None" = None) -> None:
        if self._waiting is None:
            return
        try:
            blocker = self._waiting.send(None)
        except StopIteration as returned:
            self._waiting = None
            if returned.value["type"] == "http.disconnect":
                self._on_gone()
            else:
                self._begin()
        else:
            if blocker is None:
                self._loop.call_soon(self._step)
            else:
                # The mark of a future that a coroutine awaits, which a task would clear as well.
                blocker._asyncio_future_blocking = False
                blocker.add_done_callback(self._step)
