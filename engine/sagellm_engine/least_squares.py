"""A linear model of some duration, fitted while it is used."""

from collections.abc import Sequence
from math import sqrt

OUTLIER = 4.0
"""A sample this many times off the usual error is taken for one that is off by just that much."""

TRUSTED_SAMPLES = 8
"""From so many on, there is a usual error."""

PRIOR_WEIGHT = 0.001
"""Of a sample of 1; small, so that it decides only what samples leave open."""


class LeastSquares:
    """Least squares over rows of features, forgetting as it goes, robust to hiccups.

    Coefficients are never negative. A weak `prior` keeps them sensible where the features have not varied yet;
    features should be scaled so that a change by 1 is a considerable one. `memory` is what a sample still weighs
    when the next one comes. A new solution is found for every `refit_every`-th sample.
    """

    def __init__(self, prior: Sequence[float], memory: float, refit_every: int = 1) -> None:
        self._prior = tuple(prior)
        self._places = range(len(prior))
        self._moments = [[0.0] * len(prior) for _ in prior]
        self._products = [0.0] * len(prior)
        self._coefficients = self._prior
        self._memory = memory
        self._refit_every = refit_every
        self._unfitted = 0
        self.error = 0.0
        """How far off the predictions were lately, on average, before they were learned from."""
        self.samples = 0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Of each feature, by all samples that are fitted so far."""
        if self._unfitted >= self._refit_every or (self._unfitted and self.samples <= TRUSTED_SAMPLES):
            self._coefficients = self._solve()
            self._unfitted = 0
        return self._coefficients

    def predict(self, row: Sequence[float]) -> float:
        """The value to be expected where the features are those of `row`."""
        return sum(a * b for a, b in zip(self.coefficients, row, strict=True))

    def observe(self, row: Sequence[float], value: float, weight: float = 1.0) -> float:
        """Learn that `row` had this value; returns what of it is believed.

        A `weight` below 1 counts for less, and makes forget less of the others.
        """
        expected = self.predict(row)
        error = value - expected
        if self.samples >= TRUSTED_SAMPLES:
            limit = OUTLIER * max(self.error, 0.01 * expected)
            error = max(-limit, min(limit, error))
            value = expected + error
        self.error += (0.1 * sqrt(weight) if self.samples else 1.0) * (abs(error) - self.error)
        # The very first ones, while everything warms up, are soon forgotten.
        memory = min(self._memory, self.samples / (self.samples + 2)) ** weight
        for i in self._places:
            moments, factor = self._moments[i], row[i]
            for j in range(i + 1):
                moments[j] = memory * moments[j] + weight * factor * row[j]
            self._products[i] = memory * self._products[i] + weight * factor * value
        self.samples += 1
        self._unfitted += 1
        return value

    def _solve(self) -> tuple[float, ...]:
        """Minimize the squared error; drop the most negative coefficient until none is negative."""
        kept = list(self._places)
        while kept:
            found = self._solve_for(kept)
            worst = min(found, key=lambda place: found[place])
            if found[worst] >= 0:
                return tuple(found.get(place, 0.0) for place in self._places)
            kept.remove(worst)
        return (0.0,) * len(self._prior)

    def _solve_for(self, kept: list[int]) -> dict[int, float]:
        """Coefficients of the kept features, by elimination; the prior makes the matrix positive definite."""
        rows = [
            [self._moments[max(i, j)][min(i, j)] + (PRIOR_WEIGHT if i == j else 0.0) for j in kept]
            + [self._products[i] + PRIOR_WEIGHT * self._prior[i]]
            for i in kept
        ]
        for i in range(len(rows)):
            for k in range(i + 1, len(rows)):
                factor = rows[k][i] / rows[i][i]
                rows[k] = [b - factor * a for a, b in zip(rows[i], rows[k], strict=True)]
        found = [0.0] * len(rows)
        for i in reversed(range(len(rows))):
            known = sum(rows[i][j] * found[j] for j in range(i + 1, len(rows)))
            found[i] = (rows[i][-1] - known) / rows[i][i]
        return dict(zip(kept, found, strict=True))
