"""What `verify` lets through and what it says of the rest."""

import contextlib
import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_schemas import (
    JSON,
    MSGPACK,
    ChatMessage,
    Codec,
    InferenceRequest,
    InvalidRequest,
    RequestPriority,
    SamplingParams,
)

REQUESTS = Codec(InferenceRequest)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -math.inf),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.5),
        ("top_k", -1),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("seed", 1 << 63),
        ("seed", -(1 << 63) - 1),
        ("logprobs", -1),
        ("logprobs", 21),
        ("stop", [""]),
        ("stop", ["x"] * 17),
    ],
)
def test_a_sampling_parameter_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=field if field != "stop" else "stop string") as refused:
        SamplingParams(**{field: value}).verify()
    assert refused.value.param == field


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0},
        {"temperature": 2, "top_p": 1, "top_k": 0, "min_p": 1, "repetition_penalty": 10},
        {"presence_penalty": -2, "frequency_penalty": 2, "seed": -(1 << 63), "logprobs": 20},
        {"max_tokens": 1, "min_tokens": 1, "logprobs": 0, "stop": ["x"] * 16},
    ],
)
def test_the_edges_of_every_range_are_allowed(sampling: dict[str, object]) -> None:
    SamplingParams(**sampling).verify()


def test_min_tokens_may_not_exceed_max_tokens() -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(max_tokens=3, min_tokens=4).verify()
    assert refused.value.param == "min_tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"id": "has space"}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"id": "with.dot"}, "id"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"messages": [ChatMessage(role="user", content="a")]}, "prompt"),
        ({"prompt": None, "messages": []}, "messages"),
        ({"prompt": None, "prompt_token_ids": []}, "prompt_token_ids"),
        ({"priority": 5}, "priority"),
        ({"priority": "urgent"}, "priority"),
        ({"slo_deadline_ms": 0.0}, "slo_deadline_ms"),
        ({"slo_deadline_ms": math.nan}, "slo_deadline_ms"),
        ({"ttft_slo_ms": -1.0}, "ttft_slo_ms"),
        ({"tbt_slo_ms": math.inf}, "tbt_slo_ms"),
        ({"cost_budget": 0.0}, "cost_budget"),
        ({"arrival_time": math.nan}, "arrival_time"),
        ({"reply_to": "a.*"}, "reply_to"),
        ({"reply_to": "a b"}, "reply_to"),
        ({"sampling": SamplingParams(top_p=2.0)}, "top_p"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_by_field(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        InferenceRequest(**({"model": "m", "prompt": "hi"} | fields)).verify()
    assert refused.value.param == param


@pytest.mark.parametrize("priority", [*RequestPriority, "critical", "Background", 0, 4])
def test_priorities_are_numbers_or_names_in_any_case(priority: int | str) -> None:
    InferenceRequest(model="m", prompt="hi", priority=priority).verify()


def test_only_text_parts_are_taken() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ChatMessage(role="user", content=parts).text() == "ab"
    with pytest.raises(InvalidRequest, match="image_url"):
        ChatMessage(role="user", content=[{"type": "image_url"}]).text()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": "m", "sampling": {"top_p": "x"}}, "sampling.top_p"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({}, None),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_with_the_path(body: dict[str, object], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        REQUESTS.decode(json.dumps(body).encode(), JSON)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b'"\xff"', b"[" * 100_000, b"\x81", b"\xc1", b"null", b'{"model": "\\ud800"}']
)
@pytest.mark.parametrize("content_type", [JSON, MSGPACK, None, "text/plain"])
def test_bytes_that_are_no_request_are_refused(data: bytes, content_type: str | None) -> None:
    with pytest.raises(InvalidRequest):
        REQUESTS.decode(data, content_type)


numbers = st.one_of(st.none(), st.integers(), st.floats())
texts = st.text(max_size=5)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
sampling_fields = st.dictionaries(
    st.sampled_from(SamplingParams.__struct_fields__),
    st.one_of(numbers, st.lists(texts, max_size=3), st.lists(st.integers(), max_size=3), st.booleans()),
    max_size=4,
)
values_of_fields = {
    "id": texts,
    "prompt": texts | st.none(),
    "prompt_token_ids": st.lists(st.integers(), max_size=3) | st.none(),
    "messages": st.lists(
        st.fixed_dictionaries({"role": texts}, optional={"content": texts | st.lists(plain)}), max_size=2
    ),
    "sampling": sampling_fields,
    "priority": st.integers() | texts,
    "reply_to": texts,
    "slo_deadline_ms": numbers,
    "ttft_slo_ms": numbers,
    "cost_budget": numbers,
    "arrival_time": st.floats(),
    "stream": st.booleans() | st.integers(),
    "tags": st.dictionaries(texts, texts, max_size=2),
}
bodies = st.fixed_dictionaries({"model": texts}, optional=values_of_fields) | st.dictionaries(texts, plain)


@given(bodies)
def test_any_message_is_either_good_or_an_invalid_request(body: dict[str, object]) -> None:
    try:
        data = msgspec.msgpack.encode(body)
    except (OverflowError, UnicodeEncodeError):
        return
    with contextlib.suppress(InvalidRequest):
        REQUESTS.decode(data, MSGPACK).verify()


@given(st.binary(max_size=64))
def test_any_bytes_are_either_good_or_an_invalid_request(data: bytes) -> None:
    for content_type in (JSON, MSGPACK, None):
        with contextlib.suppress(InvalidRequest):
            REQUESTS.decode(data, content_type).verify()


@given(st.builds(SamplingParams, temperature=st.floats(), top_p=st.floats(), max_tokens=st.integers()))
def test_what_verify_accepts_is_in_range(sampling: SamplingParams) -> None:
    try:
        sampling.verify()
    except InvalidRequest:
        return
    assert 0 <= sampling.temperature <= 2
    assert 0 < sampling.top_p <= 1
    assert sampling.max_tokens is not None
    assert sampling.max_tokens >= 1
