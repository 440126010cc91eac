"""The whole pipeline, started the way that users start it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .pipeline import RunningPipeline, running_pipeline

MOCK = ("--engine", "mock", "--model", "mock")


@pytest.fixture(scope="module")
def mock_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPipeline]:
    """Two mock workers at 20 ms a token and two schedulers, for the tests of one file."""
    with running_pipeline(
        tmp_path_factory.mktemp("state"), *MOCK, "--mock-tpot-ms", "20", "--workers", "2", "--schedulers", "2"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def real_pipeline(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Iterator[RunningPipeline]:
    """Two workers with the real model and two schedulers, for the tests of one file."""
    with running_pipeline(tmp_path_factory.mktemp("state"), "--workers", "2", "--schedulers", "2") as running:
        yield running


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failing test shows what the services logged."""
    outcome = yield
    report = outcome.get_result()
    for value in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(value, RunningPipeline):
            report.sections.append(("log of sagellm up", "".join(value.log[-200:])))
