"""`Inbox`: what one HTTP response has received and not yet sent."""

import asyncio

from sagellm_schemas import Event


class Inbox:
    """Events of all the requests behind one HTTP response, in the order of their arrival.

    Everything happens on one event loop. Any number of events may be put between two takes; the sender joins
    them into one write.
    """

    __slots__ = ("_events", "_loop", "_waiter", "gone")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: list[tuple[int, Event]] = []
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        """Whether the client has left."""

    def put(self, choice: int, event: Event) -> None:
        """Add an event of one of the choices."""
        self._events.append((choice, event))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """The client has gone: takers get what is there, and then nothing."""
        self.gone = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[int, Event]]:
        """All events since the last call, waiting for the first; empty when the client has gone."""
        while not self._events and not self.gone:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events = self._events, []
        return events
