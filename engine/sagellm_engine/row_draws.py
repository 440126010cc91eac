"""How the next tokens are drawn where the scores are, if nothing else is asked of the scores."""

from .execution.row_sampling import RowSampling
from .random_stream import uniform
from .sampler import Context, needs_change


def row_draws(contexts: list[Context]) -> RowSampling | None:
    """One draw for each context; None if one needs its scores on the host: penalties, bans, log probabilities."""
    if any(needs_change(c) or c.sampling.logprobs is not None for c in contexts):
        return None
    return RowSampling(
        temperatures=[c.sampling.temperature for c in contexts],
        top_k=[c.sampling.top_k for c in contexts],
        top_p=[c.sampling.top_p for c in contexts],
        min_p=[c.sampling.min_p for c in contexts],
        uniforms=uniform([c.seed for c in contexts], [c.num_output for c in contexts]).tolist(),
    )
