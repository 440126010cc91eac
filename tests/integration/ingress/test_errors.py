"""What goes wrong is told in OpenAI's shape, and the service goes on."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from nats.aio.msg import Msg

from sagellm.broker import Connection
from sagellm_schemas import (
    JSON,
    AttemptsExhausted,
    Cancelled,
    Failed,
    InvalidRequest,
    SettingsError,
    Snapshot,
    Tokens,
    encode,
    subjects,
)

from .backend import MODEL, TEXT, Backend, card, finished, publish_card
from .conftest import StartIngress

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}

BAD_REQUESTS = [
    # path, body, status, code, param
    (CHAT, b"", 400, "invalid_request", None),
    (CHAT, b"not json", 400, "invalid_request", None),
    (CHAT, b"[]", 400, "invalid_request", None),
    (CHAT, b'{"model": "tiny-model"}', 400, "invalid_request", "messages"),
    (CHAT, b'{"model": "tiny-model", "messages": []}', 400, "invalid_request", "messages"),
    (CHAT, b'{"model": "tiny-model", "messages": [{"role": "user"}], "top": 1}', 400, "invalid_request", "top"),
    (CHAT, b'{"model": "nope", "messages": [{"role": "user"}]}', 404, "model_not_found", "model"),
    (CHAT, b'{"model": "tiny-model", "messages": [], "user": "\xff\xfe"}', 400, "invalid_request", "user"),
    (CHAT, b'{"model": "tiny-model", "messages": [], "temperature": NaN}', 400, "invalid_request", "temperature"),
    (CHAT, b'{"model": "tiny-model", "messages": [{"role": "tool"}]}', 400, "invalid_request", "messages"),
    (CHAT, b"[" * 100_000, 400, "invalid_request", None),
    (CHAT, b'{"tools":' + b"[" * 100_000, 400, "invalid_request", None),
    (COMPLETIONS, b'{"model": "tiny-model", "prompt": ""}', 400, "invalid_request", "prompt"),
    (COMPLETIONS, b'{"model": "tiny-model", "prompt": [999999]}', 400, "invalid_request", "prompt"),
    (COMPLETIONS, b'{"model": "tiny-model", "prompt": ["a", 1]}', 400, "invalid_request", "prompt"),
    (
        COMPLETIONS,
        b'{"model": "tiny-model", "prompt": "a", "suffix": "b"}',
        400,
        "unsupported_parameter",
        "suffix",
    ),
    (COMPLETIONS, b'{"model": "tiny-model", "prompt": "a", "n": 99}', 400, "invalid_request", "n"),
]


async def test_malformed_bodies_get_openais_error_naming_the_field(http: httpx.AsyncClient):
    for path, body, status, code, param in BAD_REQUESTS:
        response = await http.post(path, content=body)
        assert response.status_code == status, (body[:99], response.text)
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["param"]) == (code, param), (body[:99], error)
        assert error["type"] == "invalid_request_error"
        assert error["message"]
    assert (await http.post(CHAT, json=HELLO)).status_code == 200


async def test_an_unknown_model_is_answered_with_the_known_ones(http: httpx.AsyncClient):
    for response in (
        await http.post(CHAT, json=HELLO | {"model": "gpt-4"}),
        await http.get("/v1/models/gpt-4"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert MODEL in response.json()["error"]["message"]


async def test_a_prompt_over_the_context_is_refused_with_both_numbers(http: httpx.AsyncClient, backend: Backend):
    for body in (
        HELLO | {"messages": [{"role": "user", "content": "x" * 600}]},
        HELLO | {"max_tokens": 600},
    ):
        response = await http.post(CHAT, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "512" in error["message"]
        assert "600 output tokens" in error["message"] or "618 prompt tokens" in error["message"]
    assert backend.requests.empty()


async def test_a_50_mb_body_is_refused_with_413(http: httpx.AsyncClient):
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * (1 << 20)

    for content in (b" " * (50 << 20), endless()):  # with and without a Content-Length
        response = await http.post(CHAT, content=content)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "message_too_large"
        assert "SAGELLM_MAX_BODY_BYTES" in response.json()["error"]["message"]
    assert (await http.post(CHAT, json=HELLO)).status_code == 200


async def test_unknown_paths_and_methods_get_openais_error(http: httpx.AsyncClient):
    for response, status, code in (
        (await http.get("/v2/anything"), 404, "not_found"),
        (await http.get(CHAT), 405, "method_not_allowed"),
        (await http.delete("/v1/models"), 405, "method_not_allowed"),
    ):
        assert response.status_code == status
        assert response.json()["error"]["code"] == code


async def test_a_full_queue_is_answered_with_429_and_when_to_come_back(
    connection: Connection, backend: Backend, url: str
):
    info = await connection.js.stream_info(subjects.REQUESTS_STREAM)
    await connection.js.update_stream(info.config.evolve(max_msgs=1))
    await connection.js.publish("sagellm.v1.requests.other", b"{}", headers={"Nats-Msg-Id": "filler"})
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        for stream in (True, False):
            response = await http.post(CHAT, json=HELLO | {"stream": stream})
            assert response.status_code == 429, response.text
            assert response.json()["error"]["code"] == "queue_full"
            assert int(response.headers["retry-after"]) >= 1


async def test_when_to_come_back_to_a_full_queue_is_told_by_how_fast_it_empties(
    connection: Connection, backend: Backend, http: httpx.AsyncClient
):
    info = await connection.js.stream_info(subjects.REQUESTS_STREAM)
    await connection.js.update_stream(info.config.evolve(max_msgs=1))
    await connection.js.publish("sagellm.v1.requests.other", b"{}", headers={"Nats-Msg-Id": "filler"})
    snapshot = Snapshot(taken_at=0.0, window_s=60.0, requests_per_second=0.25, active_requests=6)

    async def told(query: Msg) -> None:
        await query.respond(encode(snapshot, JSON))

    await connection.nc.subscribe(subjects.METRICS, cb=told)
    await connection.nc.flush()
    seconds: list[int] = []
    async with asyncio.timeout(20):
        while len(seconds) < 8:
            wait_s = int((await http.post(CHAT, json=HELLO)).headers["retry-after"])
            if seconds or wait_s > 1:  # before, nobody has told
                seconds.append(wait_s)
    # A place every four seconds, and after 24 the six that are outstanding have ended.
    assert seconds == [4, 8, 12, 16, 20, 24, 24, 24]


async def test_a_missing_queue_is_answered_with_503(http: httpx.AsyncClient, connection: Connection):
    await connection.js.delete_stream(subjects.REQUESTS_STREAM)
    response = await http.post(CHAT, json=HELLO)
    assert response.status_code == 503
    assert response.json()["error"] == {
        "message": response.json()["error"]["message"],
        "type": "server_error",
        "param": None,
        "code": "broker_unavailable",
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_fails_before_its_first_token_has_the_errors_status(
    http: httpx.AsyncClient, backend: Backend, stream: bool
):
    error = AttemptsExhausted("three attempts failed: the GPU is on fire")
    refusal = InvalidRequest("top_k is too large for this engine", param="top_k")

    async def answer(backend, request):
        body = refusal.body() if request.sampling.top_k else error.body()
        await backend.send(request, Failed(id=request.id, error=body))

    backend.answer = answer
    response = await http.post(CHAT, json=HELLO | {"stream": stream})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "attempts_exhausted"
    assert response.json()["error"]["message"] == error.message
    assert response.headers["x-should-retry"] == "false"
    response = await http.post(CHAT, json=HELLO | {"stream": stream, "top_k": 3})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "top_k"


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        await backend.send(request, Tokens(id=request.id, token_ids=[1], text="Hel"))
        await backend.send(request, Failed(id=request.id, error=AttemptsExhausted("no more").body()))

    backend.answer = answer
    response = await http.post(CHAT, json=HELLO | {"stream": True})
    assert response.status_code == 200
    *_, text, error, rest = response.text.split("\n\n")
    assert '"content":"Hel"' in text
    assert error.startswith('data: {"error":{"message":"no more"')
    assert rest == ""


async def test_a_request_cancelled_by_an_operator_is_not_to_be_retried(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        await backend.send(request, Cancelled(id=request.id))

    backend.answer = answer
    response = await http.post(CHAT, json=HELLO)
    assert response.status_code == 499
    assert response.json()["error"]["code"] == "cancelled"


async def test_frames_and_questions_that_cannot_be_read_do_no_harm(
    http: httpx.AsyncClient, backend: Backend, connection: Connection
):
    async def answer(backend, request):
        owner = subjects.owner_of(request.reply_to)
        for garbage in (b"", b"\xff", b"{", b'{"events":[{"type":"tokens"}]}', b'{"events":5}'):
            await connection.nc.publish(request.reply_to, garbage)
            await connection.nc.publish(subjects.held(owner), garbage)
            await connection.nc.publish(subjects.stats("x"), garbage)
        await backend.send(request, Tokens(id="unknown", token_ids=[1], text="?"))
        await backend.send(request, Tokens(id=request.id, token_ids=[1], text="ok"), finished(request))

    backend.answer = answer
    assert (await http.post(CHAT, json=HELLO)).json()["choices"][0]["message"]["content"] == "ok"


async def test_a_card_that_cannot_be_used_leaves_the_other_models_alone(
    http: httpx.AsyncClient, connection: Connection
):
    bucket = await connection.js.key_value(subjects.MODELS_BUCKET)
    await bucket.put("broken", b"{")
    await publish_card(connection, card("without-tokenizer", tokenizer=None), None)
    nowhere = card("lost-tokenizer", tokenizer=b"never stored")
    await publish_card(connection, nowhere, None)
    await publish_card(connection, card("not-a-tokenizer", tokenizer=b"{}"), b"{}")
    await publish_card(connection, card("last"), None)
    while "last" not in (names := [m["id"] for m in (await http.get("/v1/models")).json()["data"]]):
        await asyncio.sleep(0.01)
    assert names == ["last", MODEL, "without-tokenizer"]
    assert (await http.post(CHAT, json=HELLO)).json()["choices"][0]["message"]["content"] == TEXT


async def test_an_ingress_that_cannot_listen_says_so_in_one_sentence(start_ingress: StartIngress, url: str):
    with pytest.raises(SettingsError, match="SAGELLM_PORT"):
        async with start_ingress(port=int(url.rpartition(":")[2])):
            pass
