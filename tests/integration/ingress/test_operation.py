"""Probes, metrics, documentation, models that come and go, and shutting down."""

import asyncio
import re

import httpx
from nats.js.kv import KeyValue

from sagellm.broker import Connection
from sagellm_schemas import EngineState, Tokens, subjects

from .backend import MODEL, Backend, byte_tokenizer, card, publish_card, whole_answer
from .conftest import StartIngress

PATH = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


async def until(http: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    """The response of `path` once its status is `status`."""
    async with asyncio.timeout(5):
        while (response := await http.get(path)).status_code != status:
            await asyncio.sleep(0.01)
    return response


async def test_ready_follows_the_heartbeats_of_the_workers(http: httpx.AsyncClient, backend: Backend):
    assert (await http.get("/health")).json() == {"status": "ok"}
    response = await http.get("/ready")
    assert response.status_code == 503
    assert response.json()["reason"] == "no worker is ready yet"
    await backend.heartbeat()
    assert (await until(http, "/ready", 200)).json() == {"status": "ready", "models": [MODEL], "reason": None}
    backend.state = EngineState.DRAINING
    await backend.heartbeat()
    await until(http, "/ready", 503)
    backend.state = EngineState.READY
    await backend.heartbeat()
    await until(http, "/ready", 200)
    await until(http, "/ready", 503)  # silence


async def test_metrics_tell_of_requests_tokens_and_times(http: httpx.AsyncClient):
    await http.post(PATH, json=HELLO | {"stream": True})
    await http.post(PATH, json=HELLO)
    await http.post(PATH, content=b"{")
    text = (await http.get("/metrics")).text
    for line in (
        'sagellm_ingress_requests_total{endpoint="chat",status="200"} 2.0',
        'sagellm_ingress_requests_total{endpoint="chat",status="400"} 1.0',
        f'sagellm_ingress_in_flight{{model="{MODEL}"}} 0.0',
        f'sagellm_ingress_ttft_seconds_count{{model="{MODEL}"}} 1.0',
        f'sagellm_ingress_duration_seconds_count{{model="{MODEL}"}} 2.0',
        f'sagellm_ingress_output_tokens_total{{model="{MODEL}"}} 24.0',
        f'sagellm_ingress_itl_seconds_bucket{{le="+Inf",model="{MODEL}"}}',
    ):
        assert line in text, text


async def test_the_documentation_has_every_route_and_the_fields_of_the_bodies(http: httpx.AsyncClient):
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/health",
        "/ready",
        "/metrics",
        "/v1/management/queue",
        "/v1/management/requests",
        "/v1/management/requests/{id}",
        "/v1/management/cancel",
        "/v1/management/instances",
        "/v1/management/instances/{id}",
        "/v1/management/policy",
        "/v1/management/metrics",
    }
    schemas = document["components"]["schemas"]
    assert {"messages", "temperature", "priority", "slo_deadline_ms"} <= set(schemas["ChatBody"]["properties"])
    assert "HTTPValidationError" not in str(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", str(document))) <= set(schemas)
    assert "swagger" in (await http.get("/docs")).text


async def test_operators_are_told_when_no_scheduler_leads(http: httpx.AsyncClient):
    for response in (
        await http.get("/v1/management/queue"),
        await http.patch("/v1/management/policy", json={"policy": "fifo"}),
        await http.get("/v1/management/metrics"),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["message"].startswith("no scheduler leads at this moment")


async def test_models_appear_change_and_go_without_a_restart(
    http: httpx.AsyncClient, backend: Backend, connection: Connection
):
    listed = (await http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert listed["data"] == [
        {
            "id": MODEL,
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "sagellm",
            "max_model_len": 512,
            "parent": None,
        }
    ]
    tokenizer = byte_tokenizer()
    name = "org/other-model.v2"
    await publish_card(connection, card(name, tokenizer=tokenizer), tokenizer)
    assert (await until(http, f"/v1/models/{name}", 200)).json()["id"] == name
    assert (await http.post(PATH, json=HELLO | {"model": name})).status_code == 200
    assert (await backend.requests.get()).model == name

    longer = card(name, tokenizer=tokenizer, max_model_len=1024)
    await publish_card(connection, longer, None)
    while (await http.get(f"/v1/models/{name}")).json()["max_model_len"] != 1024:
        await asyncio.sleep(0.01)

    bucket: KeyValue = await connection.js.key_value(subjects.MODELS_BUCKET)
    await bucket.delete(subjects.token(name))
    await until(http, f"/v1/models/{name}", 404)


async def test_a_model_without_a_tokenizer_gets_the_messages_as_they_are(
    http: httpx.AsyncClient, backend: Backend, connection: Connection
):
    await publish_card(connection, card("remote"), None)
    await until(http, "/v1/models/remote", 200)
    assert (await http.post(PATH, json=HELLO | {"model": "remote"})).status_code == 200
    request = backend.requests.get_nowait()
    assert request.prompt_token_ids is None
    assert request.messages[0].content == "Hello"
    assert (await http.post("/v1/completions", json={"model": "remote", "prompt": "Hi"})).status_code == 200
    assert backend.requests.get_nowait().prompt == "Hi"


async def test_shutting_down_lets_open_answers_end(start_ingress: StartIngress, backend: Backend):
    go_on = asyncio.Event()

    async def answer(backend, request):
        await backend.send(request, Tokens(id=request.id, token_ids=[0], text="Hello"))
        await go_on.wait()
        for event in whole_answer(request, first=1):
            await backend.send(request, event)

    backend.answer = answer
    stop = asyncio.Event()
    async with (
        start_ingress(stop, drain_timeout_s=30.0) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        posting = asyncio.create_task(http.post(PATH, json=HELLO | {"stream": True}))
        await backend.requests.get()
        stop.set()
        go_on.set()
        response = await posting
    assert response.text.endswith("data: [DONE]\n\n")


async def test_shutting_down_ends_answers_that_take_too_long_with_an_error(
    start_ingress: StartIngress, backend: Backend
):
    async def answer(backend, request):
        if request.stream:
            await backend.send(request, Tokens(id=request.id, token_ids=[0], text="Hello"))

    backend.answer = answer
    stop = asyncio.Event()
    async with (
        start_ingress(stop, drain_timeout_s=0.2) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        posts = [asyncio.create_task(http.post(PATH, json=HELLO | {"stream": s})) for s in (True, False)]
        ids = {(await backend.requests.get()).id for _ in posts}
        stop.set()
        stream, whole = [await post for post in posts]
    assert '"code":"unavailable"' in stream.text
    assert whole.status_code == 503
    assert {await asyncio.wait_for(backend.cancelled.get(), 5) for _ in posts} == ids
