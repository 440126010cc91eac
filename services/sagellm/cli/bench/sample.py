"""What was measured of one request."""

from itertools import pairwise

import msgspec


class Sample(msgspec.Struct, kw_only=True):
    """One request. Times are from the moment it was sent.

    `itl_ms` are the gaps between the events of a stream that brought text or tokens; one event may bring several
    tokens. `tpot_ms` is the time after the first token, divided by the tokens after the first. `error` is set
    when it failed; such a request counts in nothing but the errors.
    """

    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    end_to_end_ms: float = 0.0
    itl_ms: list[float] = msgspec.field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


def sample(sent_s: float, arrivals_s: list[float], prompt_tokens: int, output_tokens: int) -> Sample:
    """The sample of an answer whose events arrived at `arrivals_s`."""
    if not arrivals_s:
        return Sample(error="the answer had no tokens")
    first, last = arrivals_s[0], arrivals_s[-1]
    return Sample(
        ttft_ms=(first - sent_s) * 1000,
        tpot_ms=(last - first) * 1000 / (output_tokens - 1) if output_tokens > 1 else 0.0,
        end_to_end_ms=(last - sent_s) * 1000,
        itl_ms=[round((b - a) * 1000, 3) for a, b in pairwise(arrivals_s)],
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
