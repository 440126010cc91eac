"""`RequestResult`: what became of a request."""

from dataclasses import dataclass, field

from sagellm_schemas import ErrorBody, FinishReason, RequestStatus, SageError, Usage, from_body


@dataclass(frozen=True, kw_only=True)
class RequestResult:
    """An answer that has ended: COMPLETED, FAILED with its `error`, or CANCELLED; then with the text so far.

    Times count from the request's submission; `ttft_ms` is None if no token came. `late_gaps` of the pauses
    between tokens were longer than the request's `tbt_slo_ms`.
    """

    request_id: str
    status: RequestStatus
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    error: ErrorBody | None = None
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    late_gaps: int = 0

    def raise_for_status(self) -> None:
        """
        Raises:
            SageError: the request failed or was cancelled.
        """
        if self.error is not None:
            raise from_body(self.error)
        if self.status is not RequestStatus.COMPLETED:
            raise SageError(f"request {self.request_id} was {self.status}")
