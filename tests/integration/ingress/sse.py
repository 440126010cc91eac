"""Reading server-sent events in tests."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a whole stream, which must be well formed and end as OpenAI's do."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def content_of(chunks: list[dict[str, Any]], choice: int = 0) -> str:
    """The text of one choice of a chat."""
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice]
    return "".join(c["delta"].get("content") or "" for c in choices)


async def live_chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Chunks as they come."""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))
