"""A client that goes away takes its requests with it."""

import asyncio

import httpx
import pytest

from sagellm.broker import Connection
from sagellm_schemas import subjects

from .backend import MODEL, Backend, whole_answer
from .sse import live_chunks

PATH = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


async def silence(backend: Backend, request: object) -> None:
    """A request that waits in the queue."""


async def test_a_client_that_disconnects_in_the_middle_of_a_stream_cancels_its_request(
    http: httpx.AsyncClient, backend: Backend
):
    async def answer(backend, request):
        await backend.send(request, whole_answer(request)[0])

    backend.answer = answer
    async with http.stream("POST", PATH, json=HELLO | {"stream": True}) as response:
        async for chunk in live_chunks(response):
            if chunk["choices"][0]["delta"].get("content"):
                break
    request = backend.requests.get_nowait()
    assert await asyncio.wait_for(backend.cancelled.get(), 5) == request.id
    assert await backend.held(request, next_attempt=2) is None


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_while_its_requests_wait_cancels_all_of_them(
    http: httpx.AsyncClient, backend: Backend, stream: bool
):
    backend.answer = silence
    posting = asyncio.create_task(http.post(PATH, json=HELLO | {"stream": stream, "n": 2}))
    requests = [await asyncio.wait_for(backend.requests.get(), 5) for _ in range(2)]
    posting.cancel()
    await asyncio.wait([posting])
    cancelled = {await asyncio.wait_for(backend.cancelled.get(), 5) for _ in range(2)}
    assert cancelled == {request.id for request in requests}


async def test_a_client_that_leaves_before_its_body_is_complete_leaves_no_trace(url: str, backend: Backend):
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        assert (await http.post(PATH, json=HELLO)).status_code == 200
    assert backend.requests.qsize() == 1
    assert backend.cancelled.empty()


async def test_a_request_that_has_ended_is_not_cancelled(
    http: httpx.AsyncClient, backend: Backend, connection: Connection
):
    for stream in (True, False):
        assert (await http.post(PATH, json=HELLO | {"stream": stream})).status_code == 200
    await connection.nc.publish(subjects.CANCEL, b'{"ids":["marker"]}')
    assert await asyncio.wait_for(backend.cancelled.get(), 5) == "marker"
