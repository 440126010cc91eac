"""How long an engine step takes, fitted online: `a + b * tokens + c * running`."""

from dataclasses import dataclass

from sagellm_schemas import EngineStats

MEMORY = 0.98
"""What a sample still weighs when the next one comes: about the last fifty count."""

OUTLIER = 4.0
"""A step this many times off its usual error is taken for one that is off by just that much."""

PRIOR_WEIGHT = 0.02
TOKENS_SCALE = 100.0
RUNNING_SCALE = 10.0

Row = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Pace:
    """What a step takes, in seconds: `base_s + per_token_s * tokens + per_running_s * running`."""

    base_s: float
    per_token_s: float
    per_running_s: float

    def step_s(self, tokens: float, running: float) -> float:
        """One step that computes `tokens`, prompts and outputs together, with `running` sequences."""
        return self.base_s + self.per_token_s * tokens + self.per_running_s * running


PRIOR = Pace(0.008, 0.00003, 0.00002)
"""An 8B model on one large GPU, roughly: what is assumed of an instance before it has made steps."""


class StepTimes:
    """Least squares over the steps of one instance, forgetting as it goes, robust to hiccups.

    A sample is the mean step between two heartbeats. Coefficients are never negative. A weak prior keeps them
    sensible where the load has not varied yet.
    """

    def __init__(self, prior: Pace = PRIOR) -> None:
        target: Row = (prior.base_s, prior.per_token_s * TOKENS_SCALE, prior.per_running_s * RUNNING_SCALE)
        self._prior = target
        self._moments = [0.0] * 6  # of (1, x, y): 11 1x 1y xx xy yy
        self._products = [0.0] * 3
        self._error_s = 0.0
        self._last: EngineStats | None = None
        self._pace = prior
        self._stale = False
        self.samples = 0
        self.mean_step_s = 0.0
        """Of the latest steps, by a moving average; 0 before there are any."""
        self.largest_tokens = 0.0
        """The largest mean number of tokens per step seen lately."""

    @property
    def pace(self) -> Pace:
        """The present fit."""
        if self._stale:
            self._pace = self._solve()
            self._stale = False
        return self._pace

    def heard(self, stats: EngineStats) -> None:
        """Take in a heartbeat's counters."""
        last, self._last = self._last, stats
        if last is None:
            return
        steps = stats.steps_total - last.steps_total
        computed = stats.prompt_tokens_total - stats.cached_tokens_total + stats.output_tokens_total
        before = last.prompt_tokens_total - last.cached_tokens_total + last.output_tokens_total
        if steps <= 0 or computed < before:
            return
        spent_ms = stats.step_ms_total - last.step_ms_total
        step_s = (spent_ms / steps if spent_ms > 0 else stats.step_ms) / 1e3
        if step_s > 0:
            self.observe((computed - before) / steps, (stats.running + last.running) / 2, step_s)

    def observe(self, tokens: float, running: float, step_s: float) -> None:
        """One sample: a mean step computed so many tokens for so many sequences, and took `step_s`."""
        expected_s = self.pace.step_s(tokens, running)
        error_s = step_s - expected_s
        if self.samples >= 8:
            limit_s = OUTLIER * max(self._error_s, 0.01 * expected_s)
            error_s = max(-limit_s, min(limit_s, error_s))
            step_s = expected_s + error_s
        self._error_s = abs(error_s) if not self.samples else 0.9 * self._error_s + 0.1 * abs(error_s)
        x, y = tokens / TOKENS_SCALE, running / RUNNING_SCALE
        for place, value in enumerate((1.0, x, y, x * x, x * y, y * y)):
            self._moments[place] = MEMORY * self._moments[place] + value
        for place, value in enumerate((step_s, x * step_s, y * step_s)):
            self._products[place] = MEMORY * self._products[place] + value
        self.mean_step_s = step_s if not self.samples else 0.9 * self.mean_step_s + 0.1 * step_s
        self.largest_tokens = max(tokens, 0.999 * self.largest_tokens)
        self.samples += 1
        self._stale = True

    def _solve(self) -> Pace:
        """Minimize the squared error; drop the most negative coefficient until none is negative."""
        kept = [0, 1, 2]
        while True:
            found = self._solve_for(kept)
            worst = min(found, key=lambda place: found[place])
            if found[worst] >= 0:
                break
            kept.remove(worst)
        return Pace(found.get(0, 0.0), found.get(1, 0.0) / TOKENS_SCALE, found.get(2, 0.0) / RUNNING_SCALE)

    def _solve_for(self, kept: list[int]) -> dict[int, float]:
        """Coefficients of the kept columns, by elimination; the prior makes the matrix positive definite."""
        n11, n1x, n1y, nxx, nxy, nyy = self._moments
        full = ((n11, n1x, n1y), (n1x, nxx, nxy), (n1y, nxy, nyy))
        rows = [
            [full[i][j] + (PRIOR_WEIGHT if i == j else 0.0) for j in kept]
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
