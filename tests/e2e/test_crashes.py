"""`kill -9` in the middle of 20 greedy streams: every one ends with the text that it has when nothing happens."""

import pytest

from .pipeline import RunningPipeline
from .streams import all_streams

PROMPTS = [f"Count from {n} upwards, and say what you think of the number {n * n}." for n in range(20)]
PIECES = 4
MAX_TOKENS = 60

pytestmark = pytest.mark.parametrize("pipeline", ["mock_pipeline", "real_pipeline"], indirect=True)


@pytest.fixture
def pipeline(request: pytest.FixtureRequest) -> RunningPipeline:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, RunningPipeline)
    return found


async def undisturbed(pipeline: RunningPipeline) -> list[str]:
    texts = await all_streams(pipeline.url, pipeline.model, PROMPTS, MAX_TOKENS)
    assert all(texts)
    return texts


async def test_streams_survive_the_death_of_a_worker(pipeline: RunningPipeline) -> None:
    expected = await undisturbed(pipeline)

    texts = await all_streams(
        pipeline.url,
        pipeline.model,
        PROMPTS,
        MAX_TOKENS,
        pieces=PIECES,
        in_the_middle=lambda: pipeline.kill("worker-1"),
    )

    assert texts == expected


async def test_streams_survive_the_death_of_the_leading_scheduler(pipeline: RunningPipeline) -> None:
    expected = await undisturbed(pipeline)

    texts = await all_streams(
        pipeline.url,
        pipeline.model,
        PROMPTS,
        MAX_TOKENS,
        pieces=PIECES,
        in_the_middle=lambda: pipeline.kill(pipeline.leading_scheduler()),
    )

    assert texts == expected
