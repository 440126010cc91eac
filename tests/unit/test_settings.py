"""Settings on their way to the services that `sagellm up` starts."""

import pytest

from sagellm.settings import Settings


def test_a_child_process_gets_every_setting_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings.load(
        tier_weights={"free": 0.5, "gold": 3.0},
        tier_bounds={"gold": 10.0},
        prefix_caching=False,
        user_requests_per_minute=2.5,
        max_queued_per_model=7,
        preemption="off",
        model="a model",
    )
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == given
