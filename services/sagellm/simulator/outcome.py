"""What became of one request."""

from dataclasses import dataclass
from typing import Literal

from sagellm.scheduler.metrics import slo

from .traces import TraceRequest

Status = Literal["finished", "rejected", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Times are milliseconds. `ttft_ms` is None if there was no token, the gaps are 0 with fewer than two.

    `charged` is what it cost by the tariff it was dispatched under.

    `tpot_ms` is the mean gap between its tokens, `gap_p99_ms` the gap that 99% of them do not exceed.
    """

    request: TraceRequest
    status: Status
    reason: str = ""
    wait_ms: float = 0.0
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    tpot_ms: float = 0.0
    gap_p99_ms: float = 0.0
    output_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    group: str = ""
    charged: float = 0.0
    instance: str = ""

    @property
    def ttft_met(self) -> bool:
        """Whether the first token came in time, or whenever where there is no such SLO."""
        ttft_ms = self.latency_ms if self.ttft_ms is None else self.ttft_ms
        return self.status == "finished" and slo.ttft_met(self.request, ttft_ms)

    @property
    def tbt_met(self) -> bool:
        """Whether 99% of the gaps between its tokens were short enough."""
        slo_ms = self.request.tbt_slo_ms
        return self.status == "finished" and (slo_ms is None or self.gap_p99_ms <= slo_ms)

    @property
    def mean_tpot_met(self) -> bool:
        """The laxer reading of the same SLO: whether the mean gap was short enough."""
        slo_ms = self.request.tbt_slo_ms
        return self.status == "finished" and (slo_ms is None or self.tpot_ms <= slo_ms)

    @property
    def deadline_met(self) -> bool:
        """Whether the whole answer came in time."""
        return self.status == "finished" and slo.deadline_met(self.request, self.latency_ms)

    @property
    def met(self) -> bool:
        """Whether every SLO it has was met. What did not finish met none."""
        return self.ttft_met and self.tbt_met and self.deadline_met
