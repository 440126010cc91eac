"""`Answer`: one request of this process, from its submission to its end."""

import asyncio
import time
from collections.abc import Callable

from sagellm.ingress.inbox import Inbox
from sagellm_schemas import (
    Cancelled,
    ErrorBody,
    Event,
    Failed,
    Finished,
    RequestStatus,
    Tokens,
    Usage,
)

from .request import RequestMetadata
from .result import RequestResult


class Answer(Inbox):
    """The inbox of one request, which keeps what comes and knows how far it is.

    `status` goes from PENDING (not in the durable queue yet) over QUEUED and RUNNING to one of the ends.
    """

    __slots__ = (
        "_callback",
        "_ended",
        "_first_s",
        "_last_s",
        "_late_gaps",
        "_pieces",
        "_submitted_s",
        "_token_ids",
        "request",
        "result",
        "status",
    )

    def __init__(self, request: RequestMetadata, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.request = request
        self.status = RequestStatus.PENDING
        self.result: RequestResult | None = None
        self._ended: asyncio.Future[RequestResult] = loop.create_future()
        self._submitted_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._late_gaps = 0
        self._pieces: list[str] = []
        self._callback: Callable[[], None] = _nothing
        self._token_ids: list[int] = []

    def put(self, choice: int, event: Event) -> None:
        """Take in what the reader passes on."""
        if self.result is not None:
            return
        if isinstance(event, Tokens):
            self._time(time.monotonic())
            self.status = RequestStatus.RUNNING
            self._pieces.append(event.text)
            self._token_ids.extend(event.token_ids)
        elif isinstance(event, Finished):
            self._end(RequestStatus.COMPLETED, finished=event)
        elif isinstance(event, Failed):
            self._end(RequestStatus.FAILED, error=event.error)
        elif isinstance(event, Cancelled):
            self._end(RequestStatus.CANCELLED)
        super().put(choice, event)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have `callback` called at its end."""
        self._callback = callback

    def queued(self) -> None:
        """It is in the durable queue."""
        if self.status is RequestStatus.PENDING:
            self.status = RequestStatus.QUEUED

    def running(self) -> None:
        """A worker has it."""
        if self.result is None:
            self.status = RequestStatus.RUNNING

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.put(0, Cancelled(id=self.request.request_id))

    def fail(self, error: ErrorBody) -> None:
        """It cannot be answered."""
        self.put(0, Failed(id=self.request.request_id, error=error))

    async def wait(self) -> RequestResult:
        """Its result, once it has ended."""
        return await asyncio.shield(self._ended)

    def _time(self, now_s: float) -> None:
        """Tokens have come."""
        slo_ms = self.request.tbt_slo_ms
        if self._first_s is None:
            self._first_s = now_s
        elif slo_ms is not None and (now_s - self._last_s) * 1000 > slo_ms:
            self._late_gaps += 1
        self._last_s = now_s

    def _end(
        self, status: RequestStatus, *, finished: Finished | None = None, error: ErrorBody | None = None
    ) -> None:
        now_s = time.monotonic()
        self.status = status
        self.request.tokens_generated = len(self._token_ids)
        if finished is not None:
            self.request.tokens_generated = finished.usage.completion_tokens
        self.result = RequestResult(
            request_id=self.request.request_id,
            status=status,
            text="".join(self._pieces),
            token_ids=self._token_ids,
            finish_reason=finished.finish_reason if finished else None,
            usage=finished.usage if finished else Usage(),
            error=error,
            ttft_ms=None if self._first_s is None else (self._first_s - self._submitted_s) * 1000,
            latency_ms=(now_s - self._submitted_s) * 1000,
            late_gaps=self._late_gaps,
        )
        self._ended.set_result(self.result)
        self._callback()


def _nothing() -> None:
    """Nobody has asked to be called."""
