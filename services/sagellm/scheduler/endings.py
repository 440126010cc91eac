"""How requests end: the message is acknowledged, its record goes, and whoever has to be told is told."""

import time

from sagellm.broker import Sender
from sagellm.scheduler.admission import Rates
from sagellm.scheduler.attempts import Attempts
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.replies import Replies
from sagellm.scheduler.requests import RequestTable, TrackedRequest
from sagellm_schemas import Ended, ErrorBody, Outcome

ACK = b"+ACK"


class Endings:
    """The only place where a tracked request is let go of."""

    def __init__(
        self,
        table: RequestTable,
        attempts: Attempts,
        replies: Replies,
        sender: Sender,
        metrics: SchedulerMetrics,
        rates: Rates,
        term: int,
    ) -> None:
        self._table = table
        self._rates = rates
        self._attempts = attempts
        self._replies = replies
        self._sender = sender
        self._metrics = metrics
        self._term = term

    def settle(self, tracked: TrackedRequest, ended: Ended | None = None) -> None:
        """It has ended, and its reader knows (or has gone: then `ended` is None)."""
        self._metrics.requests.ended(tracked, Outcome.CANCELLED if ended is None else ended.outcome, ended)
        self._let_go(tracked, ended)

    def _let_go(self, tracked: TrackedRequest, ended: Ended | None = None) -> None:
        self._table.remove(tracked)
        if tracked.reserved_tokens:
            self._rates.settle(tracked, ended, time.monotonic())
        if tracked.ack_subject:  # else its message is still to come, and is acknowledged then
            self._sender.send(tracked.ack_subject, ACK)
        if tracked.recorded:
            self._attempts.forget(tracked.id)

    def drop(self, tracked: TrackedRequest) -> None:
        """It had ended before this leader began: nobody need be told."""
        self._let_go(tracked)

    def settle_again(self, sequence: int, ack_subject: str) -> None:
        """Acknowledge a message that came although its request has ended, or is another's duplicate."""
        self._table.settled(sequence)
        self._sender.send(ack_subject, ACK)

    def cancel(self, tracked: TrackedRequest) -> None:
        """It ends cancelled, while it is here."""
        self._replies.cancelled(tracked, tracked.next_attempt(self._term))
        self._metrics.cancelled.inc()
        self._metrics.requests.ended(tracked, Outcome.CANCELLED)
        self._let_go(tracked)

    def fail(self, tracked: TrackedRequest, error: ErrorBody) -> None:
        """It ends with an error, while it is here."""
        self._replies.failed(
            tracked.request.reply_to, tracked.reply_format, tracked.id, error, tracked.next_attempt(self._term)
        )
        self._metrics.failed.inc()
        self._metrics.requests.ended(tracked, Outcome.FAILED)
        self._let_go(tracked)
