"""How long an engine step takes, fitted online: `a + b * tokens + c * running`."""

from dataclasses import dataclass

from sagellm_engine.least_squares import LeastSquares
from sagellm_schemas import EngineStats

MEMORY = 0.998
"""About the last five hundred heartbeats count: an instance that has been full for a minute shows how long its
steps are, but not of what they consist."""

TOKENS_SCALE = 100.0
RUNNING_SCALE = 10.0


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
    """The pace of one instance, from what its heartbeats tell: a sample is the mean step between two of them."""

    def __init__(self, prior: Pace = PRIOR) -> None:
        self._fit = LeastSquares(
            (prior.base_s, prior.per_token_s * TOKENS_SCALE, prior.per_running_s * RUNNING_SCALE), MEMORY
        )
        self._last: EngineStats | None = None
        self.mean_step_s = 0.0
        """Of the latest steps, by a moving average; 0 before there are any."""

    @property
    def pace(self) -> Pace:
        """The present fit."""
        base_s, tokens_s, running_s = self._fit.coefficients
        return Pace(base_s, tokens_s / TOKENS_SCALE, running_s / RUNNING_SCALE)

    @property
    def samples(self) -> int:
        """How many there were."""
        return self._fit.samples

    def heard(self, stats: EngineStats) -> None:
        """Take in a heartbeat's counters."""
        last, self._last = self._last, stats
        if last is None:
            return
        steps = stats.steps_total - last.steps_total
        computed, before = _computed_tokens(stats), _computed_tokens(last)
        if steps <= 0 or computed < before:
            return
        spent_ms = stats.step_ms_total - last.step_ms_total
        step_s = (spent_ms / steps if spent_ms > 0 else stats.step_ms) / 1e3
        if step_s > 0:
            self.observe((computed - before) / steps, (stats.running + last.running) / 2, step_s)

    def observe(self, tokens: float, running: float, step_s: float) -> None:
        """One sample: a mean step computed so many tokens for so many sequences, and took `step_s`."""
        first = not self._fit.samples
        step_s = self._fit.observe((1.0, tokens / TOKENS_SCALE, running / RUNNING_SCALE), step_s)
        self.mean_step_s = step_s if first else 0.9 * self.mean_step_s + 0.1 * step_s


def _computed_tokens(stats: EngineStats) -> int:
    """So far; roughly, where the engine does not tell: a whole prompt then counts in one step."""
    told = stats.computed_tokens_total
    return told or stats.prompt_tokens_total - stats.cached_tokens_total + stats.output_tokens_total
