"""adaptive: split where that costs this request less time than its prefill would cost the decodes beside it."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import RequestPriority

from .base import Prospect
from .threshold import Threshold

SHORT_OUTPUT_TOKENS = 500
TIGHT_SLO_MS = 100.0
WEIGHT = 0.5
"""Seconds of this request's first token that one second of another request's stall is worth."""


class Adaptive:
    """Run whole, a prompt stalls each of the `decoding` requests beside it for `prefill_s`. Split, the request
    itself waits for a prefilling instance and for the transfer. The smaller of the two sums wins.

    A CRITICAL request with a short answer, and one whose SLO is tighter than a transfer should be relied upon to
    keep, stay on one instance. With nothing known yet: as `threshold`.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self) -> None:
        self._threshold = Threshold()

    def splits(self, request: TrackedRequest, prospect: Prospect) -> bool:
        """By the time that either way takes from whom."""
        if _must_not_wait(request, prospect):
            return False
        if not prospect.prefill_s:
            return self._threshold.splits(request, prospect)
        stall_s = prospect.prefill_s * prospect.decoding
        return WEIGHT * stall_s > prospect.prefill_wait_s + prospect.transfer_s


def _must_not_wait(request: TrackedRequest, prospect: Prospect) -> bool:
    asked = request.request
    if request.priority == RequestPriority.CRITICAL and prospect.output_tokens < SHORT_OUTPUT_TOKENS:
        return True
    slos_ms = (asked.ttft_slo_ms, asked.slo_deadline_ms)
    return any(slo_ms is not None and slo_ms < TIGHT_SLO_MS for slo_ms in slos_ms)
