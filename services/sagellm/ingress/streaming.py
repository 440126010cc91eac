"""Sending an answer: as a stream of server-sent events, or whole."""

import asyncio
from collections.abc import Callable

from starlette.types import Send

from sagellm_schemas import ErrorBody

from .inbox import Inbox
from .metrics import ModelMetrics
from .openai import errors
from .openai.stream import ChunkStream
from .openai.whole import Collector

EVENT_STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # a proxy in front must not collect chunks
    ],
}

CLIENT_GONE_STATUS = 499


async def send_stream(
    send: Send,
    inbox: Inbox,
    stream: ChunkStream,
    metrics: ModelMetrics,
    started: float,
    loop: asyncio.AbstractEventLoop,
) -> int:
    """Send chunks as they come, all that are ready in one write; returns the HTTP status.

    The response begins with the first event, so that a request which fails before has a status of its own.
    """
    events = await inbox.take()
    if not events:
        return CLIENT_GONE_STATUS
    body = stream.add(events)
    if stream.error is not None and stream.tokens == 0:
        return await send_error(send, stream.error)
    last = loop.time()
    metrics.ttft.observe(last - started)
    tokens = stream.tokens
    await send(EVENT_STREAM)
    while True:
        if stream.error is not None:
            await send({"type": "http.response.body", "body": body + errors.event(stream.error)})
            return errors.status_of(stream.error.code)
        if stream.open_choices == 0:
            await send({"type": "http.response.body", "body": body + stream.end()})
            return 200
        await send({"type": "http.response.body", "body": body, "more_body": True})
        events = await inbox.take()
        if not events:
            return CLIENT_GONE_STATUS
        body = stream.add(events)
        if stream.tokens > tokens:
            now = loop.time()
            metrics.itl.observe((now - last) / (stream.tokens - tokens), stream.tokens - tokens)
            last, tokens = now, stream.tokens


async def send_whole(send: Send, inbox: Inbox, collector: Collector, document: Callable[[], bytes]) -> int:
    """Send the answer when it is complete; returns the HTTP status."""
    while collector.open_choices:
        events = await inbox.take()
        if not events:
            return CLIENT_GONE_STATUS
        collector.add(events)
        if collector.error is not None:
            return await send_error(send, collector.error)
    body = document()
    await send_json(send, 200, body, [])
    return 200


async def send_error(send: Send, error: ErrorBody) -> int:
    """Send an error response; returns its status."""
    response = errors.http_error(error)
    await send_json(send, response.status, response.body, response.headers)
    return response.status


async def send_json(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a JSON response."""
    base = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": base + headers})
    await send({"type": "http.response.body", "body": body})
