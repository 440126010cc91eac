"""The search for the highest rate."""

import pytest

from sagellm.simulator.goodput import PRECISION, find_goodput
from sagellm.simulator.results import RunResult
from sagellm.simulator.scenario import Scenario

from .scenarios import scenario_of


def run_with_limit(scenario: Scenario, limit: float) -> object:
    """Runs whose attainment is full up to a rate scale of `limit`, and nil beyond."""
    full = scenario.run(0, 0.001)[0]
    none = scenario.run(0, 1e9)[0]
    assert (full.overall.attainment, none.overall.attainment < 0.9) == (1.0, True)
    return lambda scale: full if scale <= limit else none


@pytest.mark.parametrize(("limit", "start"), [(3.3, 1.0), (0.07, 1.0), (5.0, 5.0)])
def test_it_ends_just_below_the_limit(limit: float, start: float) -> None:
    run = run_with_limit(scenario_of(), limit)
    found = find_goodput(run, 0, 0.9, start)  # type: ignore[arg-type]
    assert limit / PRECISION <= found.rate_scale <= limit


def test_where_no_rate_will_do_it_is_nought() -> None:
    def never(scale: float) -> RunResult:
        return scenario_of().run(0, 1e9)[0]

    found = find_goodput(never, 0, 0.9, 1.0)
    assert (found.goodput_rps, found.result) == (0.0, None)


def test_a_search_over_runs_that_are_stopped_early_finds_the_same() -> None:
    scenario = scenario_of()
    stopped = find_goodput(scenario.at_rate(0, 0.9), 0, 0.9, 1.0)
    whole = find_goodput(scenario.at_rate(0, 0.0), 0, 0.9, 1.0)
    assert stopped.goodput_rps == whole.goodput_rps > 0
    assert stopped.result is not None
    assert stopped.result.overall.attainment >= 0.9
