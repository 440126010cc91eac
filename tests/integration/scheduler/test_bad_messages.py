"""Whatever is published on the request subjects is answered, kept as a dead letter, and never comes again."""

import asyncio
import json

import msgspec
import nats.js.errors
import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import (
    JSON,
    MSGPACK,
    Codec,
    DeadLetter,
    Failed,
    Finished,
    Frame,
    subjects,
)

from .fakes import MODEL, FakeReader, FakeWorker, Inbox, queue_is_empty, scheduling, until

GOOD = {"model": MODEL, "prompt": "hello", "reply_to": "answers"}

BAD = {
    "wrong type": (json.dumps(GOOD | {"prompt": 5}).encode(), "invalid_request", "prompt"),
    "nested wrong type": (
        json.dumps(GOOD | {"sampling": {"top_p": "x"}}).encode(),
        "invalid_request",
        "sampling.top_p",
    ),
    "out of range": (json.dumps(GOOD | {"sampling": {"top_p": 7}}).encode(), "invalid_request", "top_p"),
    "no prompt": (b'{"model": "tiny", "reply_to": "answers"}', "invalid_request", "prompt"),
    "two prompts": (json.dumps(GOOD | {"prompt_token_ids": [1]}).encode(), "invalid_request", "prompt"),
    "bad id": (json.dumps(GOOD | {"id": "a b"}).encode(), "invalid_request", "id"),
    "bad priority": (json.dumps(GOOD | {"priority": "urgent"}).encode(), "invalid_request", "priority"),
    "another model": (json.dumps(GOOD | {"model": "huge"}).encode(), "invalid_request", "model"),
    "wrong type, packed": (msgspec.msgpack.encode(GOOD | {"stream": "yes"}), "invalid_request", "stream"),
}


class Answers(Inbox):
    """Failed events that arrive on a subject."""

    async def listen(self, connection: Connection, subject: str = "answers") -> "Answers":
        codec = Codec(Frame)

        async def on_frame(message):  # type: ignore[no-untyped-def]
            for event in codec.decode(message.data).events:
                self.put_nowait(event)

        await connection.nc.subscribe(subject, cb=on_frame, pending_msgs_limit=0, pending_bytes_limit=0)
        return self


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_request_is_answered_with_the_field_at_fault(
    settings: Settings, connection: Connection, what: str
) -> None:
    data, code, param = BAD[what]
    answers = await Answers().listen(connection)
    letters = await connection.nc.subscribe(subjects.ALL_DEADLETTERS)
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await connection.js.publish(subjects.requests(MODEL), data, headers={subjects.MESSAGE_ID: "m1"})
        failed = await answers.next()
        assert isinstance(failed, Failed)
        assert (failed.error.code, failed.error.param) == (code, param)
        letter = Codec(DeadLetter).decode((await letters.next_msg(5)).data)
        assert letter.errors == [failed.error]
        assert letter.raw == data
        await until(lambda: queue_is_empty(connection))
        assert worker.items.empty()


async def test_malformed_json_is_answered_and_never_redelivered(
    settings: Settings, connection: Connection
) -> None:
    answers = await Answers().listen(connection, "my.inbox")
    async with scheduling(settings), FakeWorker(settings, "w1"):
        for number, data in enumerate((b"", b"{", b"\xff\xfe\x00", b"null", b"[]", b'"x"', b"\xc1", b"[" * 5000)):
            headers = {
                subjects.REPLY_TO: "my.inbox",
                subjects.MESSAGE_ID: f"m{number}",
                subjects.CONTENT_TYPE: JSON,
            }
            await connection.js.publish(subjects.requests(MODEL), data, headers=headers)
            failed = await answers.next()
            assert failed.id == f"m{number}"
            assert failed.error.code == "invalid_request"
        await until(lambda: queue_is_empty(connection))


async def test_an_unknown_model_is_answered_with_the_known_ones(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1"):
        await reader.send("a", model="gpt-99")
        failed = await reader.end_of("a")
        assert isinstance(failed, Failed)
        assert failed.error.code == "model_not_found"
        assert "gpt-99" in failed.error.message
        assert MODEL in failed.error.message
        await until(lambda: queue_is_empty(connection))


async def test_a_reply_subject_of_the_system_is_refused(settings: Settings, connection: Connection) -> None:
    letters = await connection.nc.subscribe(subjects.ALL_DEADLETTERS)
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        for reply_to in (subjects.requests(MODEL), "$JS.API.STREAM.DELETE.X", "x" * 600, "a b", "a.>"):
            body = json.dumps(GOOD | {"reply_to": reply_to}).encode()
            await connection.js.publish(subjects.requests(MODEL), body)
            letter = Codec(DeadLetter).decode((await letters.next_msg(5)).data)
            assert letter.errors[0].param == "reply_to"
        await until(lambda: queue_is_empty(connection))
        assert worker.items.empty()


async def test_hostile_subjects_and_headers_do_not_stop_the_service(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", auto=True):
        await reader.send("before")
        await reader.end_of("before")
        _, writer = await _raw(settings)
        prefix = subjects.PREFIX.encode() + b".requests."
        for subject in (prefix + b"\xff\xfe", prefix + b"a" * 3000, prefix + b"x.y.z"):
            writer.write(b"PUB " + subject + b" 2\r\n{}\r\n")
        header = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 99999\r\nbad\xff: \xff\r\n\r\n"
        size = str(len(header)).encode()
        writer.write(b"HPUB " + prefix + b"tiny " + size + b" " + size + b"\r\n" + header + b"\r\n")
        await writer.drain()
        await reader.send("after")
        assert isinstance(await reader.end_of("after"), Finished)
        await until(lambda: queue_is_empty(connection))
        writer.close()
        await writer.wait_closed()


async def test_ten_thousand_malformed_messages_are_each_answered(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"lease_ttl_s": 3.0})
    reader = await FakeReader(connection).start()
    answers = await Answers().listen(connection)
    kinds = [data for data, _, _ in BAD.values()]
    count = 10_000
    async with scheduling(settings), FakeWorker(settings, "w1", auto=True):
        for number in range(count):
            await connection.nc.publish(subjects.requests(MODEL), kinds[number % len(kinds)])
            if number % 100 == 0:
                await connection.nc.flush()  # let the others of this event loop breathe
        await reader.send("good")
        seen = await answers.take(count)
        assert all(isinstance(event, Failed) for event in seen)
        assert isinstance(await reader.end_of("good"), Finished)
        await until(lambda: queue_is_empty(connection))
    async with scheduling(settings):
        await asyncio.sleep(0)
        assert answers.empty()
    letters = await connection.js.stream_info(subjects.DEADLETTER_STREAM)
    assert letters.state.messages == count


async def test_beyond_its_bound_the_queue_refuses_and_keeps_what_it_has(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"queue_max_messages": 5})
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("r0")
        item = await worker.items.next()
        for number in range(1, 5):
            await reader.send(f"r{number}")
        with pytest.raises(nats.js.errors.APIError, match="maximum messages exceeded"):
            await reader.send("one too many")
        worker.auto = True
        await worker.end(item)
        await reader.ends_of([f"r{number}" for number in range(5)])


async def test_a_packed_request_is_answered_packed(settings: Settings, connection: Connection) -> None:
    answers = await connection.nc.subscribe("answers")
    async with scheduling(settings), FakeWorker(settings, "w1"):
        body = msgspec.msgpack.encode(GOOD | {"stream": "yes"})
        await connection.js.publish(subjects.requests(MODEL), body, headers={subjects.CONTENT_TYPE: MSGPACK})
        frame = msgspec.msgpack.decode((await answers.next_msg(10)).data)
        assert frame["events"][0]["type"] == "failed"


async def _raw(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that says what no NATS library would."""
    host, _, port = settings.nats_url.rpartition("//")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    token = settings.nats_token.get_secret_value() if settings.nats_token else ""
    writer.write(
        b"CONNECT " + json.dumps({"verbose": False, "auth_token": token, "headers": True}).encode() + b"\r\n"
    )
    return reader, writer
