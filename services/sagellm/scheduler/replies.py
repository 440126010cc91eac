"""What the scheduler itself tells readers: that a request failed, or was cancelled."""

from sagellm.broker import Sender
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import Cancelled, ErrorBody, Failed, Frame, encode


class Replies:
    """Sends the terminal events that fall to the scheduler, in each request's own format."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def failed(
        self, reply_to: str, reply_format: str, request_id: str, error: ErrorBody, attempt: int = 1
    ) -> None:
        """Tell the reader at `reply_to`, if there is one, that its request has failed."""
        if reply_to:
            event = Failed(id=request_id, error=error, attempt=attempt)
            self._sender.send(reply_to, encode(Frame(events=[event]), reply_format))

    def cancelled(self, tracked: TrackedRequest, attempt: int) -> None:
        """Tell the reader that its request was cancelled."""
        if tracked.request.reply_to:
            event = Cancelled(id=tracked.id, attempt=attempt)
            self._sender.send(tracked.request.reply_to, encode(Frame(events=[event]), tracked.reply_format))
