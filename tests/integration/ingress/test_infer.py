"""The NATS micro service, for clients that speak only NATS."""

import asyncio
import json

import pytest

from sagellm.broker import Connection
from sagellm_schemas import (
    JSON,
    MSGPACK,
    ChatMessage,
    Codec,
    Frame,
    InferenceRequest,
    Tokens,
    encode,
    sniff,
    subjects,
)

from .backend import MODEL, TEXT, Backend
from .conftest import StartIngress

ASKED = InferenceRequest(model=MODEL, messages=[ChatMessage(role="user", content="Hello")])
FRAMES = Codec(Frame)


async def ask(
    connection: Connection, subject: str, payload: bytes, headers: dict[str, str] | None = None
) -> tuple[list, str]:
    """All events of one request, and the format of the frames."""
    inbox = connection.nc.new_inbox()
    subscription = await connection.nc.subscribe(inbox)
    await connection.nc.publish(subject, payload, reply=inbox, headers=headers)
    events: list = []
    while not events or type(events[-1]) is Tokens:
        message = await subscription.next_msg(timeout=5)
        events += FRAMES.decode(message.data).events
    await subscription.unsubscribe()
    return events, sniff(message.data)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
async def test_a_request_is_answered_with_frames_in_its_own_format(
    url: str, backend: Backend, connection: Connection, content_type: str
):
    events, answered = await ask(connection, subjects.infer(MODEL), encode(ASKED, content_type))
    assert "".join(e.text for e in events[:-1]) == TEXT
    assert events[-1].finish_reason == "stop"
    assert answered == content_type
    assert backend.requests.get_nowait().messages[0].content == "Hello"


@pytest.mark.parametrize(
    ("payload", "code", "param"),
    [
        (b"", "invalid_request", None),
        (b"\xc1\xff", "invalid_request", None),
        (b"{}", "invalid_request", None),
        (encode(InferenceRequest(model=MODEL), JSON), "invalid_request", "prompt"),
        (encode(InferenceRequest(model="nope", prompt="a"), JSON), "model_not_found", "model"),
        (b'{"model":"tiny-model","prompt":"a","sampling":{"temperature":9}}', "invalid_request", "temperature"),
    ],
)
async def test_a_bad_request_is_answered_with_a_failed_event(
    url: str, connection: Connection, payload: bytes, code: str, param: str | None
):
    events, _ = await ask(connection, subjects.infer(MODEL), payload)
    assert (events[0].error.code, events[0].error.param) == (code, param)


async def test_a_request_on_another_models_subject_is_refused(url: str, connection: Connection):
    events, _ = await ask(connection, subjects.infer("other"), encode(ASKED))
    assert events[0].error.param == "model"


async def test_a_full_queue_is_told_as_a_failed_event(url: str, backend: Backend, connection: Connection):
    info = await connection.js.stream_info(subjects.REQUESTS_STREAM)
    await connection.js.update_stream(info.config.evolve(max_msgs=1))
    await connection.js.publish("sagellm.v1.requests.other", b"{}", headers={"Nats-Msg-Id": "filler"})
    events, _ = await ask(connection, subjects.infer(MODEL), encode(ASKED), {subjects.MESSAGE_ID: "mine"})
    assert (events[0].id, events[0].error.code) == ("mine", "queue_full")


async def test_two_ingresses_share_the_infer_service(
    start_ingress: StartIngress, backend: Backend, connection: Connection
):
    async with start_ingress(), start_ingress():
        asked = [encode(ASKED, JSON) for _ in range(20)]
        answers = await asyncio.gather(*(ask(connection, subjects.infer(MODEL), payload) for payload in asked))
        assert all("".join(e.text for e in events[:-1]) == TEXT for events, _ in answers)
        assert backend.requests.qsize() == len(asked)  # each went to one of them only
        counts = [await stats(connection, identity) for identity in await identities(connection)]
    assert len(counts) == 2
    assert sum(counts) == len(asked)


async def identities(connection: Connection) -> list[str]:
    """The ids of the running services, as `nats micro ls` finds them."""
    inbox = connection.nc.new_inbox()
    subscription = await connection.nc.subscribe(inbox)
    await connection.nc.publish("$SRV.PING.sagellm", reply=inbox)
    found = [json.loads((await subscription.next_msg(timeout=5)).data)["id"] for _ in range(2)]
    await subscription.unsubscribe()
    return found


async def stats(connection: Connection, identity: str) -> int:
    """How many requests one service has taken."""
    reply = await connection.nc.request(f"$SRV.STATS.sagellm.{identity}", timeout=5)
    return json.loads(reply.data)["endpoints"][0]["num_requests"]
