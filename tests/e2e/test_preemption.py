"""A CRITICAL request sends another back, whose stream goes on later: its text is the same, greedy or sampled."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import MOCK
from .pipeline import RunningPipeline, running_pipeline
from .streams import TIMEOUT_S, stream

PROMPT = "Tell me how a letter travels from one town to another."
PIECES = 4
MAX_TOKENS = 48
KINDS: dict[str, dict[str, object]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.9, "top_p": 0.95, "seed": 7},
}


@pytest.fixture(scope="module", params=["mock", "real"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path
) -> Iterator[RunningPipeline]:
    """One worker that runs one request at a time, and two schedulers."""
    engine = (*MOCK, "--mock-tpot-ms", "50") if request.param == "mock" else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGELLM_MAX_NUM_SEQS", "1")
        with running_pipeline(tmp_path_factory.mktemp("state"), *engine, "--schedulers", "2") as running:
            yield running


async def undisturbed(pipeline: RunningPipeline, http: httpx.AsyncClient, fields: dict[str, object]) -> str:
    return await stream(http, pipeline.model, PROMPT, MAX_TOKENS, lambda: None, **fields)


async def critical(pipeline: RunningPipeline, http: httpx.AsyncClient) -> None:
    body = {
        "model": pipeline.model,
        "messages": [{"role": "user", "content": "Quick, what is the time?"}],
        "max_tokens": 5,
        "priority": "critical",
    }
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_makes_room_for_a_critical_request_ends_with_the_same_text(
    pipeline: RunningPipeline, kind: str
) -> None:
    async with httpx.AsyncClient(base_url=pipeline.url, timeout=TIMEOUT_S, trust_env=False) as http:
        expected = await undisturbed(pipeline, http, KINDS[kind])
        pieces = 0
        begun = asyncio.Event()

        def on_piece() -> None:
            nonlocal pieces
            pieces += 1
            if pieces == PIECES:
                begun.set()

        victim = asyncio.create_task(
            stream(http, pipeline.model, PROMPT, MAX_TOKENS, on_piece, **KINDS[kind], priority="low")
        )
        await begun.wait()
        await critical(pipeline, http)
        assert not victim.done()  # though there is room for one only
        assert await victim == expected


async def test_so_it_does_when_the_leading_scheduler_dies_at_that_moment(pipeline: RunningPipeline) -> None:
    async with httpx.AsyncClient(base_url=pipeline.url, timeout=TIMEOUT_S, trust_env=False) as http:
        expected = await undisturbed(pipeline, http, KINDS["sampled"])
        begun = asyncio.Event()
        victim = asyncio.create_task(
            stream(http, pipeline.model, PROMPT, MAX_TOKENS, begun.set, **KINDS["sampled"], priority="low")
        )
        await begun.wait()
        urgent = asyncio.create_task(critical(pipeline, http))
        await asyncio.sleep(0)  # its request is on the way
        pipeline.kill(pipeline.leading_scheduler())
        await urgent
        assert await victim == expected
