"""Whether a request that has ended met the SLOs it stated."""

from typing import Protocol


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


def met(request: Stated, latency_ms: float, ttft_ms: float | None, tpot_ms: float | None) -> bool:
    """Whether a request that completed met all the SLOs it states, and so True where it states none.

    `slo_deadline_ms` bounds the latency, `ttft_slo_ms` the time to the first token, `tbt_slo_ms` the mean time
    between tokens (TPOT). None is for what has no tokens to time: an empty answer, or one of a single token.
    """
    return (
        (request.slo_deadline_ms is None or latency_ms <= request.slo_deadline_ms)
        and (request.ttft_slo_ms is None or (latency_ms if ttft_ms is None else ttft_ms) <= request.ttft_slo_ms)
        and (request.tbt_slo_ms is None or tpot_ms is None or tpot_ms <= request.tbt_slo_ms)
    )
