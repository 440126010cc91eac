"""Streams, many at once, and a way to do something in the middle of them."""

import asyncio
from collections.abc import Callable, Sequence

import httpx
import msgspec

TIMEOUT_S = 120


async def stream(
    http: httpx.AsyncClient,
    model: str,
    prompt: str,
    max_tokens: int,
    on_piece: Callable[[], None],
    **fields: object,
) -> str:
    """The whole text of one stream, which must end as OpenAI's do; greedy unless `fields` say otherwise."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    } | fields
    text, finishes, tokens, last = "", [], [], ""
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == httpx.codes.OK, await answer.aread()
        async for line in answer.aiter_lines():
            if not line:
                continue
            last = line
            if not line.startswith("data: {"):
                continue
            event = msgspec.json.decode(line.removeprefix("data: "))
            assert "error" not in event, event
            if event.get("usage"):
                tokens.append(event["usage"]["completion_tokens"])
            for choice in event["choices"]:
                if choice["finish_reason"]:
                    finishes.append(choice["finish_reason"])
                if piece := choice["delta"].get("content"):
                    text += piece
                    on_piece()
    assert last == "data: [DONE]"
    assert finishes == ["length"]
    assert tokens == [max_tokens]
    return text


async def all_streams(
    url: str,
    model: str,
    prompts: Sequence[str],
    max_tokens: int,
    *,
    pieces: int = 0,
    in_the_middle: Callable[[], None] | None = None,
) -> list[str]:
    """The texts of all prompts, streamed at once. When each has had `pieces` pieces, `in_the_middle` is called."""
    seen = [0] * len(prompts)
    done = False

    def counter(index: int) -> Callable[[], None]:
        def on_piece() -> None:
            nonlocal done
            seen[index] += 1
            if in_the_middle is not None and not done and min(seen) >= pieces:
                done = True
                in_the_middle()

        return on_piece

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as http:
        texts = await asyncio.gather(
            *(stream(http, model, prompt, max_tokens, counter(i)) for i, prompt in enumerate(prompts))
        )
    assert in_the_middle is None or done, "the streams ended before the middle came"
    return list(texts)
