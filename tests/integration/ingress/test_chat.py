import json

import httpx

from .backend import MODEL, TEXT, WORDS, Backend

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


def events(response: httpx.Response) -> list[dict]:
    """The JSON of each server-sent event; checks that the stream is well formed and ends as OpenAI's."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_chat_is_answered_whole(http: httpx.AsyncClient, backend: Backend):
    response = await http.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    request = backend.requests.get_nowait()
    assert bytes(request.prompt_token_ids) is not None
    assert answer["usage"]["completion_tokens"] == len(WORDS)


async def test_a_chat_is_streamed_chunk_by_chunk(http: httpx.AsyncClient):
    response = await http.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.status_code == 200, response.text
    chunks = events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["delta"].get("content") for c in chunks[1:-1]] == WORDS
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
