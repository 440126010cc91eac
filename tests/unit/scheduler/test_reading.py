"""Messages of the durable queue, good and bad."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.broker import Message
from sagellm.scheduler.reading import Delivery, Reader, Rejection
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import JSON, MSGPACK, InferenceRequest, SamplingParams, encode, subjects
from sagellm_schemas.request import EARLIEST_ARRIVAL_S

ACK = "$JS.ACK.SAGELLM_REQUESTS.scheduler.1.17.4.1700000000500000000.9"
STORED_S = 1_700_000_000.5


def read(data: bytes, headers: dict[str, str] | None = None, model: str = "m") -> TrackedRequest | Rejection:
    message = Message(subjects.requests(model), ACK, data, headers or {})
    return Reader().read(message, Delivery.of(ACK))


def test_an_acknowledgement_subject_tells_where_a_message_stands() -> None:
    expected = Delivery(sequence=17, ordinal=4, stored_s=1_700_000_000.5, pending=9)
    assert Delivery.of(ACK) == expected
    with_domain = "$JS.ACK.hub.AbCd.SAGELLM_REQUESTS.scheduler.1.17.4.1700000000500000000.9.random"
    assert Delivery.of(with_domain) == expected


def test_a_complete_request_is_taken_as_it_is() -> None:
    request = InferenceRequest(
        model="m",
        id="a",
        prompt_token_ids=[1],
        sampling=SamplingParams(seed=3),
        arrival_time=STORED_S - 0.25,
        priority="HIGH",
    )
    for content_type in (JSON, MSGPACK):
        tracked = read(encode(request, content_type))
        assert isinstance(tracked, TrackedRequest)
        assert tracked.request == request
        assert encode(tracked.request, content_type) == encode(request, content_type)
        assert (tracked.priority, tracked.sequence, tracked.arrival_s) == (1, 17, STORED_S - 0.25)
        assert tracked.reply_format == content_type


def test_what_is_missing_is_filled_in() -> None:
    tracked = read(b'{"model": "m", "prompt": "x"}', {subjects.REPLY_TO: "inbox.1"})
    assert isinstance(tracked, TrackedRequest)
    assert tracked.id == "nats-17"
    assert tracked.request.reply_to == "inbox.1"
    assert tracked.request.arrival_time == tracked.arrival_s == STORED_S
    assert tracked.request.sampling.seed is not None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_nobody_can_claim_to_have_come_long_before_or_after_the_message_was_stored(claimed_s: float) -> None:
    tracked = read(encode(InferenceRequest(model="m", prompt="x", arrival_time=claimed_s)))
    assert isinstance(tracked, TrackedRequest)
    assert STORED_S - EARLIEST_ARRIVAL_S <= tracked.arrival_s <= STORED_S
    assert tracked.request.arrival_time == tracked.arrival_s
    if STORED_S - EARLIEST_ARRIVAL_S <= claimed_s <= STORED_S:
        assert tracked.arrival_s == claimed_s


@pytest.mark.parametrize("claimed_s", [math.nan, math.inf, -math.inf])
def test_an_arrival_that_is_no_time_is_refused(claimed_s: float) -> None:
    rejection = read(msgspec.msgpack.encode({"model": "m", "prompt": "x", "arrival_time": claimed_s}))
    assert isinstance(rejection, Rejection)
    assert rejection.error.param == "arrival_time"


def test_the_message_id_names_a_request_that_does_not_name_itself() -> None:
    tracked = read(b'{"model": "m", "prompt": "x"}', {subjects.MESSAGE_ID: "mine"})
    assert isinstance(tracked, TrackedRequest)
    assert tracked.id == "mine"


def test_a_rejection_keeps_what_is_needed_to_answer() -> None:
    body = msgspec.msgpack.encode({"model": "m", "id": "a", "reply_to": "inbox.1", "prompt": 7})
    rejection = read(body)
    assert isinstance(rejection, Rejection)
    assert (rejection.request_id, rejection.reply_to, rejection.reply_format) == ("a", "inbox.1", MSGPACK)
    assert rejection.error.param == "prompt"


@given(st.binary(max_size=200), st.sampled_from([None, JSON, MSGPACK, "text/plain"]))
def test_any_bytes_are_either_a_request_or_a_rejection(data: bytes, content_type: str | None) -> None:
    found = read(data, {subjects.CONTENT_TYPE: content_type} if content_type else None)
    assert isinstance(found, TrackedRequest | Rejection)


WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)
fields = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "", "other"])},
    optional={
        "id": st.text(max_size=5) | WHOLE,
        "prompt": st.text(max_size=5) | st.none() | WHOLE,
        "prompt_token_ids": st.lists(WHOLE, max_size=3),
        "reply_to": st.text(max_size=5) | st.just("sagellm.v1.replies.a") | st.just("$JS.API.X"),
        "priority": st.integers(-9, 9) | st.text(max_size=4),
        "sampling": st.dictionaries(st.sampled_from(["top_p", "temperature", "seed"]), st.floats() | WHOLE),
        "slo_deadline_ms": st.floats(),
    },
)


@given(fields)
def test_whatever_is_accepted_is_safe_to_run_and_to_answer(body: dict[str, object]) -> None:
    found = read(msgspec.msgpack.encode(body))
    if isinstance(found, TrackedRequest):
        found.request.verify()
        assert found.id
        assert found.request.model == "m"
    reply_to = found.request.reply_to if isinstance(found, TrackedRequest) else found.reply_to
    assert not reply_to.startswith("$")
    assert not any(c <= " " or c in "*>" for c in reply_to)
