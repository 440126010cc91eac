"""What waits, and how soon the next place will be free."""

from collections.abc import Callable
from typing import Protocol

from sagellm.places import Places
from sagellm.scheduler.requests import TrackedRequest

UNKNOWN_S = 5.0
"""When to come again where no instance is ready, so that nobody can know."""


class Queues(Protocol):
    """What waits; the dispatcher tells."""

    def length(self, model: str) -> int:
        """Waiting requests of a model."""
        ...

    def length_of(self, user_id: str) -> int:
        """Waiting requests of a user."""
        ...

    def catch_up(self) -> None:
        """Send what can be sent already, so that it waits no more."""
        ...


class Backlog:
    """The queues, and estimates of how fast they are served.

    `service_s` tells how long a request lasts at an instance, `capacity` how many of a model can run at once.
    """

    def __init__(
        self, queues: Queues, service_s: Callable[[TrackedRequest], float], capacity: Callable[[str], int]
    ) -> None:
        self._queues = queues
        self._service_s = service_s
        self._capacity = capacity
        self._places: dict[str, Places] = {}

    def full(self, length: Callable[[Queues], int], most: float) -> bool:
        """Whether so many wait: asked once more when everything has been sent that can be."""
        if length(self._queues) < most:
            return False
        self._queues.catch_up()
        return length(self._queues) >= most

    def model_place_s(self, refused: TrackedRequest, now_s: float) -> float:
        """When a place in the queue of its model will be free for a request that is refused now, in seconds."""
        model = refused.request.model
        interval_s = self._interval_s(refused)
        if interval_s is None:
            return UNKNOWN_S
        places = self._places.get(model)
        if places is None:
            places = self._places[model] = Places()
        return places.retry_after_s(now_s, interval_s, self._queues.length(model) * interval_s)

    def user_place_s(self, refused: TrackedRequest) -> float:
        """When the first of its user's waiting requests will probably start: they are spread over the queue."""
        interval_s = self._interval_s(refused)
        if interval_s is None:
            return UNKNOWN_S
        waiting = self._queues.length(refused.request.model)
        return interval_s * max(1.0, waiting / max(1, self._queues.length_of(refused.request.user_id)))

    def _interval_s(self, like: TrackedRequest) -> float | None:
        """From one start to the next while requests wait, if all are like this one; None: nothing serves them."""
        capacity = self._capacity(like.request.model)
        return self._service_s(like) / capacity if capacity else None
