"""The highest rate at which enough requests meet their SLOs."""

from collections.abc import Callable

import msgspec

from .results import RunResult

PRECISION = 1.01
"""The search ends when the rates that pass and fail are this close, as a ratio."""
MOST_DOUBLINGS = 12


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Of one seed: the best run found, and every rate that was tried, with its attainment."""

    seed: int
    rate_scale: float
    goodput_rps: float
    result: RunResult | None
    tried: list[tuple[float, float]]


def find_goodput(run: Callable[[float], RunResult], seed: int, attainment: float, start: float) -> Goodput:
    """Search the highest rate scale at which `run` reaches `attainment`, by doubling or halving from `start` and
    then bisecting. Attainment is taken to fall with the rate; `goodput_rps` is 0 if no rate is low enough.
    """
    tried: list[tuple[float, float]] = []
    best: tuple[float, RunResult] | None = None

    def passes(scale: float) -> bool:
        nonlocal best
        result = run(scale)
        tried.append((scale, result.overall.attainment))
        passed = result.overall.attainment >= attainment
        if passed and (best is None or scale > best[0]):
            best = scale, result
        return passed

    low, high = 0.0, 0.0
    scale = start
    for _ in range(MOST_DOUBLINGS):
        if passes(scale):
            low = scale
        else:
            high = scale
        if low and high:
            break
        scale = scale / 2 if high else scale * 2
    while low and high and high / low > PRECISION:
        middle = (low * high) ** 0.5
        if passes(middle):
            low = middle
        else:
            high = middle
    if best is None:
        return Goodput(seed=seed, rate_scale=0.0, goodput_rps=0.0, result=None, tried=sorted(tried))
    return Goodput(
        seed=seed, rate_scale=best[0], goodput_rps=best[1].offered_rps, result=best[1], tried=sorted(tried)
    )
