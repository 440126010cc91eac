"""What a reader sees when its request is run again."""

import asyncio

import httpx
import pytest

from sagellm.ingress import readers
from sagellm_schemas import Tokens

from .backend import MODEL, TEXT, WORDS, Backend, finished, whole_answer
from .sse import chunks_of, content_of

PATH = "/v1/chat/completions"
STREAM = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def test_a_resumed_stream_shows_every_token_once(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        for event in whole_answer(request)[:5]:
            await backend.send(request, event)
        held = await backend.held(request, next_attempt=2)
        assert held == [0, 1, 2, 3, 4]
        for event in whole_answer(request, attempt=2, first=len(held)):
            await backend.send(request, event)

    backend.answer = answer
    assert content_of(chunks_of(await http.post(PATH, json=STREAM))) == TEXT


async def test_frames_of_an_older_attempt_are_dropped(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        old = whole_answer(request)
        for event in old[:3]:
            await backend.send(request, event)
        assert await backend.held(request, next_attempt=2) == [0, 1, 2]
        for event in old[3:]:  # the worker that was thought dead speaks on
            await backend.send(request, event)
        for event in whole_answer(request, attempt=2, first=3):
            await backend.send(request, event)

    backend.answer = answer
    chunks = chunks_of(await http.post(PATH, json=STREAM))
    assert content_of(chunks) == TEXT
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("stop") == 1


async def test_an_attempt_that_starts_over_is_trimmed_to_what_is_new(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        for event in whole_answer(request)[:6]:
            await backend.send(request, event)
        everything = Tokens(id=request.id, attempt=4, token_ids=list(range(9)), text="".join(WORDS[:9]))
        await backend.send(request, everything)
        for event in whole_answer(request, attempt=4, first=9):
            await backend.send(request, event)

    backend.answer = answer
    assert content_of(chunks_of(await http.post(PATH, json=STREAM))) == TEXT


async def test_a_whole_answer_survives_a_second_attempt(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        assert await backend.held(request, next_attempt=2) == []
        events = whole_answer(request, attempt=2)
        await backend.send(request, *whole_answer(request, attempt=1))
        await backend.send(request, *events)

    backend.answer = answer
    response = await http.post(PATH, json=STREAM | {"stream": False})
    assert response.json()["choices"][0]["message"]["content"] == TEXT


async def test_a_lost_frame_leaves_no_hole_when_another_attempt_comes(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        events = whole_answer(request)
        for event in [*events[:4], *events[5:]]:  # the frame of token 4 is lost
            if not isinstance(event, type(finished(request))):
                await backend.send(request, event)
        assert await backend.held(request, next_attempt=2) == [0, 1, 2, 3]
        for event in whole_answer(request, attempt=2, first=4):
            await backend.send(request, event)

    backend.answer = answer
    assert content_of(chunks_of(await http.post(PATH, json=STREAM))) == TEXT


async def test_a_lost_frame_that_nobody_replaces_ends_the_stream_with_an_error(
    http: httpx.AsyncClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(readers, "GAP_TIMEOUT_S", 0.05)

    async def answer(backend, request):
        for event in (e for e in whole_answer(request)[:-1] if e.offset != 4):
            await backend.send(request, event)

    backend.answer = answer
    response = await http.post(PATH, json=STREAM)
    assert WORDS[6] not in response.text
    assert '"code":"unavailable"' in response.text
    assert "[DONE]" not in response.text
    cancelled = await asyncio.wait_for(backend.cancelled.get(), 5)
    assert cancelled == backend.requests.get_nowait().id


async def test_the_scheduler_is_told_when_nobody_wants_a_request_any_more(
    http: httpx.AsyncClient, backend: Backend
):
    await http.post(PATH, json=STREAM)
    request = backend.requests.get_nowait()
    assert await backend.held(request, next_attempt=2) is None
