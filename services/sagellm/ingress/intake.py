"""Requests into the queue and out of it again: publish and read, or withdraw."""

from functools import partial

from sagellm_schemas import MSGPACK, BrokerError, InferenceRequest, InvalidRequest, SageError, encode

from .inbox import Inbox
from .publisher import Publisher
from .readers import Readers


class Intake:
    """Submits the requests of an HTTP response and withdraws what is left of them when its client goes."""

    def __init__(self, publisher: Publisher, readers: Readers) -> None:
        self._publisher = publisher
        self._readers = readers
        self._unaccepted: dict[str, bool] = {}  # published, not acknowledged; True: cancel once it is

    @property
    def reply_to(self) -> str:
        """Where frames for requests submitted here must go."""
        return self._readers.reply_to

    def submit(self, requests: list[InferenceRequest], subject: str, inbox: Inbox) -> None:
        """Publish `requests`; their events, of which the last may be that the queue refused, go to `inbox`.

        Returns without waiting for the acknowledgements: a frame of an answer proves as well that its request was
        stored, and everything else arrives in the inbox.

        Raises:
            SageError: a request cannot be sent. Those before it were: withdraw them all.
        """
        for choice, request in enumerate(requests):
            try:
                payload = encode(request)
            except OverflowError:
                raise InvalidRequest("the body has a number that is too large") from None
            self._readers.open(request.id, choice, inbox)
            self._unaccepted[request.id] = False
            try:
                self._publisher.publish(subject, payload, request.id, MSGPACK, partial(self._settle, request.id))
            except SageError:
                del self._unaccepted[request.id]
                self._readers.close(request.id)
                raise

    def withdraw(self, requests: list[InferenceRequest]) -> None:
        """Stop reading; cancel those that have not ended."""
        unfinished = [request.id for request in requests if self._readers.close(request.id)]
        if unfinished:
            # A cancellation must not overtake its request: the scheduler would not know what it is about.
            for request_id in unfinished:
                if request_id in self._unaccepted:
                    self._unaccepted[request_id] = True
            self._readers.cancel([i for i in unfinished if i not in self._unaccepted])

    def _settle(self, request_id: str, error: SageError | None) -> None:
        """The queue has, or has not, taken a request."""
        withdrawn = self._unaccepted.pop(request_id, False)
        if error is not None:
            self._readers.fail(request_id, error.body())
        # Without an acknowledgement it may be stored nevertheless.
        if withdrawn or isinstance(error, BrokerError):
            self._readers.cancel([request_id])
