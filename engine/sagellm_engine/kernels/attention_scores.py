"""What both attention kernels do between the two matrix products."""

import triton
import triton.language as tl


@triton.jit
def capped(scores, SOFTCAP: tl.constexpr):
    """SOFTCAP · tanh(scores), or the scores themselves where SOFTCAP is 0 (Gemma 2).

    tanh by the exponential, which every backend has; it goes to ±1 where the exponential overflows.
    """
    if SOFTCAP > 0.0:
        return SOFTCAP * (1.0 - 2.0 / (tl.exp(2.0 * scores) + 1.0))
    return scores


@triton.jit
def accumulate(scores, values, running_max, running_sum, out, DOT_TYPE: tl.constexpr):
    """One step of the online softmax, in base 2 (FlashAttention-2, Dao, 2023, algorithm 1).

    `scores` (rows, tokens) are -inf where a row does not attend; `values` are (tokens, head_dim).
    """
    new_max = tl.maximum(running_max, tl.max(scores, 1))
    # A row that has attended to nothing yet keeps -inf as its maximum, and -inf minus -inf is no number.
    shift = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(running_max - shift)
    running_sum = running_sum * decay + tl.sum(weights, 1)
    out = out * decay[:, None] + tl.dot(weights.to(DOT_TYPE), values, input_precision="ieee")
    return new_max, running_sum, out


def score_factors(scale: float, softcap: float) -> tuple[float, float]:
    """What to multiply raw products by before and after the cap, so that 2^score is the softmax's numerator."""
    log2_e = 1.4426950408889634
    return (scale / softcap, softcap * log2_e) if softcap else (scale * log2_e, 0.0)
