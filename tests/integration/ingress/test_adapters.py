"""An adapter is asked for as a model is."""

import asyncio

import httpx
import msgspec

from sagellm.broker import Connection
from sagellm_schemas import Codec, Failed, Frame, InferenceRequest, encode, subjects

from .backend import MODEL, TEXT, Backend, byte_tokenizer, card, publish_card


async def add_adapter(connection: Connection, http: httpx.AsyncClient) -> None:
    tokenizer = byte_tokenizer()
    adapter = msgspec.structs.replace(card(tokenizer=tokenizer), name="org/poet", parent=MODEL)
    await publish_card(connection, adapter, tokenizer)
    while (await http.get("/v1/models/org/poet")).status_code == 404:  # the ingress hears of it through NATS
        await asyncio.sleep(0.01)


async def test_the_name_of_an_adapter_chooses_its_model_and_the_adapter(
    connection: Connection, backend: Backend, http: httpx.AsyncClient
) -> None:
    await add_adapter(connection, http)
    body = {"model": "org/poet", "messages": [{"role": "user", "content": "Hi"}]}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert answer["model"] == "org/poet"
    assert answer["choices"][0]["message"]["content"] == TEXT
    request = await backend.requests.get()
    assert (request.model, request.adapter) == (MODEL, "org/poet")
    assert request.prompt_token_ids  # rendered and tokenized with what its model has
    await http.post("/v1/completions", json={"model": MODEL, "prompt": "Hi"})
    assert (await backend.requests.get()).adapter is None


async def test_adapters_are_listed_with_their_parents(
    connection: Connection, backend: Backend, http: httpx.AsyncClient
) -> None:
    await add_adapter(connection, http)
    listed = (await http.get("/v1/models")).json()["data"]
    assert [(model["id"], model["parent"]) for model in listed] == [("org/poet", MODEL), (MODEL, None)]


async def test_over_nats_an_adapter_is_a_field_of_the_request(
    connection: Connection, backend: Backend, http: httpx.AsyncClient
) -> None:
    await add_adapter(connection, http)

    async def ask(model: str, adapter: str | None) -> Frame:
        request = InferenceRequest(model=model, prompt="Hi", adapter=adapter)
        reply = await connection.nc.request(subjects.infer(model), encode(request), timeout=5)
        return Codec(Frame).decode(reply.data)

    await ask(MODEL, "org/poet")
    assert (await backend.requests.get()).adapter == "org/poet"
    for model, adapter, message in (
        ("org/poet", None, f"'org/poet' is an adapter: ask for model '{MODEL}' with adapter 'org/poet'"),
        (MODEL, MODEL, f"'{MODEL}' is no adapter of '{MODEL}'"),
        (MODEL, "priest", f"the model 'priest' does not exist; known models: org/poet, {MODEL}"),
    ):
        [event] = (await ask(model, adapter)).events
        assert isinstance(event, Failed)
        assert event.error.message == message
