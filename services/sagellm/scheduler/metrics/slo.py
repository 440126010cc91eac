"""Whether a request that has ended met the SLOs it stated: one reading, of the service and of the simulator."""

from typing import Protocol

ON_TIME_PERCENT = 99
"""So many of a request's own gaps between tokens are held to `tbt_slo_ms`."""


class Stated(Protocol):
    """The SLOs that a request states, in milliseconds; None where it states none."""

    @property
    def slo_deadline_ms(self) -> float | None:
        """For the whole answer."""

    @property
    def ttft_slo_ms(self) -> float | None:
        """For the first token."""

    @property
    def tbt_slo_ms(self) -> float | None:
        """Between tokens."""


def states_slo(request: Stated) -> bool:
    """Whether it states any SLO."""
    return request.slo_deadline_ms is not None or request.ttft_slo_ms is not None or request.tbt_slo_ms is not None


def met(request: Stated, *, latency_ms: float, ttft_ms: float | None, output_tokens: int, late_gaps: int) -> bool:
    """Whether a request that completed met all the SLOs it states, and so True where it states none.

    `late_gaps` of the gaps between its tokens were longer than `tbt_slo_ms`.
    """
    return (
        deadline_met(request, latency_ms)
        and ttft_met(request, latency_ms if ttft_ms is None else ttft_ms)
        and tbt_met(request, output_tokens, late_gaps)
    )


def deadline_met(request: Stated, latency_ms: float) -> bool:
    """Whether the whole answer came in time."""
    return request.slo_deadline_ms is None or latency_ms <= request.slo_deadline_ms


def ttft_met(request: Stated, ttft_ms: float) -> bool:
    """Whether the first token came in time; of an empty answer its end."""
    return request.ttft_slo_ms is None or ttft_ms <= request.ttft_slo_ms


def tbt_met(request: Stated, output_tokens: int, late_gaps: int) -> bool:
    """Whether no more gaps between tokens were late than may be."""
    gaps = max(0, output_tokens - 1)
    return request.tbt_slo_ms is None or late_gaps <= gaps - on_time(gaps)


def on_time(gaps: int) -> int:
    """How many of so many gaps must be short enough: the nearest rank, so of up to 99 all of them."""
    return -(-ON_TIME_PERCENT * gaps // 100)
