"""Cancels: taken in whether this process leads or not, and remembered in case they overtake their requests."""

import time
from collections import OrderedDict

from sagellm.broker import Message
from sagellm_schemas import Cancel, Codec, InvalidRequest

REMEMBERED_S = 60.0
REMEMBERED_IDS = 100_000


class Cancellations:
    """The ids cancelled lately."""

    def __init__(self) -> None:
        self._codec = Codec(Cancel)
        self._at_s: OrderedDict[str, float] = OrderedDict()

    def read(self, message: Message) -> list[str]:
        """The ids of one cancel message, now remembered; none if it is malformed."""
        try:
            ids = self._codec.decode(message.data).ids
        except InvalidRequest:
            return []
        now_s = time.monotonic()
        for request_id in ids:
            self._at_s.pop(request_id, None)
            self._at_s[request_id] = now_s
        while self._at_s:
            oldest = next(iter(self._at_s))
            if len(self._at_s) <= REMEMBERED_IDS and now_s - self._at_s[oldest] <= REMEMBERED_S:
                break
            self._at_s.popitem(last=False)
        return ids

    def __contains__(self, request_id: str) -> bool:
        at_s = self._at_s.get(request_id)
        return at_s is not None and time.monotonic() - at_s <= REMEMBERED_S
