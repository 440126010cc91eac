"""Ten thousand bad requests over HTTP and NATS: each gets a clear error, and the service goes on."""

import asyncio
import itertools
from collections.abc import Iterator

import msgspec
import nats
import pytest
from nats.js import JetStreamContext

from sagellm.cli.bench.connection import Answer, open_connection
from sagellm_schemas import JSON, MSGPACK, Codec, Failed, Frame, subjects
from sagellm_schemas.errors import error_types

from .pipeline import NATS_TOKEN, RunningPipeline
from .streams import all_streams

HTTP_REQUESTS = 4000
HTTP_CONNECTIONS = 16
NATS_REQUESTS = 6000
MANY_TOKENS = 40_000
HUGE_BODIES = 3
HUGE_BYTES = 50 << 20

CHAT = {"model": "mock", "messages": [{"role": "user", "content": "Hello"}]}
BAD_CHATS: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"model": "mock", "messages": [{"role": "user", "content": "\xc3\x28"}]}',
    b'{"model": "mock", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"model": "mock", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    b"[" * 100_000,
    *(
        msgspec.json.encode(CHAT | change)
        for change in (
            {"model": "no-such-model"},
            {"model": ""},
            {"model": 7},
            {"messages": []},
            {"messages": "Hello"},
            {"messages": [{"content": "no role"}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            {"messages": [{"role": "user", "content": "word " * MANY_TOKENS}]},
            {"max_tokens": 0},
            {"max_tokens": 10**12},
            {"max_tokens": "many"},
            {"temperature": -1},
            {"temperature": "hot"},
            {"top_p": 2},
            {"n": 10**6},
            {"stop": [""]},
            {"seed": 2**70},
            {"priority": "URGENT"},
            {"slo_deadline_ms": -5},
            {"logprobs": True, "top_logprobs": 500},
            {"stream": "yes"},
        )
    ),
)

REQUEST: dict[str, object] = {"model": "mock", "prompt": "Hello"}
BAD_FIELDS: tuple[dict[str, object], ...] = (
    {"model": "no-such-model"},
    {"model": 7},
    {"prompt": 7},
    {"prompt": None},
    {"prompt": ""},
    {"prompt": "both", "messages": [{"role": "user", "content": "both"}]},
    {"prompt": "word " * MANY_TOKENS},
    {"prompt_token_ids": [-1], "prompt": None},
    {"prompt_token_ids": [10**9], "prompt": None},
    {"prompt_token_ids": ["a"], "prompt": None},
    {"sampling": {"temperature": "hot"}},
    {"sampling": {"top_p": 2.0}},
    {"sampling": {"max_tokens": 10**9}},
    {"priority": "URGENT"},
    {"id": "spaces are not allowed"},
    {"arrival_time": "now"},
    {"tags": [1]},
)
NAN = REQUEST | {"sampling": {"temperature": float("nan")}}
BAD_REQUESTS: tuple[tuple[dict[str, object], str], ...] = (
    *((REQUEST | fields, content_type) for fields in BAD_FIELDS for content_type in (JSON, MSGPACK)),
    (NAN, MSGPACK),
)
UNREADABLE: tuple[bytes, ...] = (b"", b"\xff" * 100, b"{", b"[1, 2", b"\x81\xa5model", b"\xc1", b"{}" * 1000)


async def test_every_malformed_message_is_answered_and_service_goes_on(mock_pipeline: RunningPipeline) -> None:
    async with asyncio.TaskGroup() as floods:
        floods.create_task(flood_http(mock_pipeline))
        floods.create_task(flood_nats(mock_pipeline))

    [text] = await all_streams(mock_pipeline.url, mock_pipeline.model, ["Still there?"], max_tokens=10)
    assert text.startswith("The quick brown fox")
    assert "Traceback" not in "".join(mock_pipeline.log)


async def flood_http(pipeline: RunningPipeline) -> None:
    bodies = itertools.islice(itertools.cycle(BAD_CHATS), HTTP_REQUESTS)
    async with asyncio.TaskGroup() as clients:
        for _ in range(HTTP_CONNECTIONS):
            clients.create_task(send_all(pipeline, bodies))
        clients.create_task(send_all(pipeline, iter([b" " * HUGE_BYTES] * HUGE_BODIES), status=413))


async def send_all(pipeline: RunningPipeline, bodies: Iterator[bytes], status: int | None = None) -> None:
    connection = await open_connection(pipeline.url)
    try:
        for body in bodies:
            if not connection.usable:
                connection = await open_connection(pipeline.url)
            answer = await connection.post("/v1/chat/completions", body)
            check_refusal(body, answer, status)
    finally:
        connection.close()


def check_refusal(body: bytes, answer: Answer, status: int | None) -> None:
    assert answer.status == status if status else 400 <= answer.status < 500, (answer.status, body[:200])
    error = msgspec.json.decode(b"".join(answer.pieces))["error"]
    assert error["message"], body[:200]
    assert error["code"] in error_types(), (error, body[:200])


async def flood_nats(pipeline: RunningPipeline) -> None:
    connection = await nats.connect(pipeline.nats_url, token=NATS_TOKEN)
    try:
        await send_and_await_all(connection)
    finally:
        await connection.close()


async def send_and_await_all(connection: nats.aio.client.Client) -> None:
    codec = Codec(Frame)
    answered: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    finished = asyncio.Event()
    inbox = "flood.replies"

    async def on_frame(message: nats.aio.msg.Msg) -> None:
        [event] = codec.decode(message.data).events
        assert isinstance(event, Failed)
        assert event.error.message
        # A reader that has its answer drops what a later attempt says: only a slow machine makes one.
        assert (message.subject, event.attempt) not in seen, "answered twice"
        seen.add((message.subject, event.attempt))
        answered[message.subject] = event.error.code
        if len(answered) == NATS_REQUESTS:
            finished.set()

    await connection.subscribe(f"{inbox}.*", cb=on_frame)
    for number in range(NATS_REQUESTS):
        await publish_bad(connection.jetstream(), number, f"{inbox}.{number}")
    try:
        await asyncio.wait_for(finished.wait(), 90)
    except TimeoutError:
        missing = [n for n in range(NATS_REQUESTS) if f"{inbox}.{n}" not in answered]
        pytest.fail(f"{len(missing)} were not answered, such as {[describe(n) for n in missing[:5]]}")
    assert set(answered.values()) <= set(error_types())
    assert await outstanding(connection.jetstream()) == 0


def describe(number: int) -> object:
    kinds = len(UNREADABLE) + len(BAD_REQUESTS)
    kind = number % kinds
    if kind < len(UNREADABLE):
        return UNREADABLE[kind]
    body, content_type = BAD_REQUESTS[kind - len(UNREADABLE)]
    return content_type, str(body)[:100]


async def publish_bad(js: JetStreamContext, number: int, reply_to: str) -> None:
    """An unreadable message says where its answer goes in a header, a readable one in its body."""
    kind = number % (len(UNREADABLE) + len(BAD_REQUESTS))
    subject = subjects.requests("mock")
    if kind < len(UNREADABLE):
        await js.publish(subject, UNREADABLE[kind], headers={subjects.REPLY_TO: reply_to})
        return
    fields, content_type = BAD_REQUESTS[kind - len(UNREADABLE)]
    body = fields | {"reply_to": reply_to}
    data = msgspec.json.encode(body) if content_type == JSON else msgspec.msgpack.encode(body)
    await js.publish(subject, data, headers={subjects.CONTENT_TYPE: content_type})


async def outstanding(js: JetStreamContext) -> int:
    """Messages left in the queue, once acknowledgements on their way have arrived."""
    for _ in range(100):
        left = (await js.stream_info(subjects.REQUESTS_STREAM)).state.messages
        if left == 0:
            break
        await asyncio.sleep(0.05)
    return left
