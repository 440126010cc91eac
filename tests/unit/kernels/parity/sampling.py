"""Sampling against the sampler of the CPU."""

import torch

from sagellm_engine.kernels.sampling import sample, sample_reference

from .draws import FLOATS, Draws


def check(draws: Draws) -> None:
    """One random case: tokens are the same. Ties, bans and broken rows are among the scores."""
    pick = draws.pick
    rows, vocabulary = draws.size(1, 2, 64), draws.size(1, 5000, 150_000)
    dtype = pick.choice(FLOATS)
    logits = draws.strided(draws.normal(rows, vocabulary, dtype=dtype) * pick.choice((0.3, 2.0, 8.0)))
    if pick.random() < 0.3:
        logits = logits.round()  # many tokens are equally likely
    for row in range(rows):
        if vocabulary > 5 and pick.random() < 0.3:
            logits[row, pick.sample(range(vocabulary), 3)] = -torch.inf
        if pick.random() < 0.05:
            logits[row, pick.randrange(vocabulary)] = pick.choice((torch.nan, torch.inf))
    if pick.random() < 0.03:
        logits[0] = -torch.inf

    def choose(kinds: tuple[float, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([pick.choice(kinds) for _ in range(rows)], dtype=dtype, device=draws.device)

    arguments = (
        choose((0.0, 0.5, 0.7, 1.0, 1.0, 1.8), torch.float32),
        choose((0, 0, 1, 2, 5, 40, 1000, 10**6), torch.int32),
        choose((1.0, 1.0, 0.95, 0.9, 0.5, 0.01), torch.float64),
        choose((0.0, 0.0, 0.05, 0.5, 1.0), torch.float32),
        draws.uniform(rows),
    )
    actual = sample(logits, *arguments).cpu()
    assert actual.tolist() == sample_reference(logits, *arguments).tolist()
