"""How sequences' next tokens are drawn where the scores are, if nothing else is asked of the scores."""

from .execution.row_sampling import RowSampling
from .random_stream import uniform
from .sampler import needs_change
from .sequence import Sequence


def row_draws(sequences: list[Sequence]) -> RowSampling | None:
    """One draw for each sequence; None if one needs its scores on the host: penalties, bans, log probabilities."""
    if any(needs_change(s) or s.sampling.logprobs is not None for s in sequences):
        return None
    return RowSampling(
        temperatures=[s.sampling.temperature for s in sequences],
        top_k=[s.sampling.top_k for s in sequences],
        top_p=[s.sampling.top_p for s in sequences],
        min_p=[s.sampling.min_p for s in sequences],
        uniforms=uniform([s.seed for s in sequences], [s.num_output for s in sequences]).tolist(),
    )
