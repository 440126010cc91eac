import io
import logging

import pytest
from rich.console import Console

from sagellm.cli.loading import LoadingShown


def _plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_a_log_gets_a_line_every_two_seconds_of_loading(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    times = iter([0.0, 1.0, 2.5, 2.5, 3.0, 4.6, 4.6])
    shown = LoadingShown("tiny", _plain(), now_s=lambda: next(times))
    for loaded in (10, 25, 30, 75):
        shown(loaded, 100)
    assert [record.message for record in caplog.records] == ["loading tiny: 25 %", "loading tiny: 75 %"]


def test_a_terminal_gets_a_bar_that_goes_when_all_is_loaded() -> None:
    screen = io.StringIO()
    shown = LoadingShown("tiny", Console(file=screen, force_terminal=True, width=100))
    shown(30, 100)
    shown(100, 100)
    assert "loading tiny" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")
