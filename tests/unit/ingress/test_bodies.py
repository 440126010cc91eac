import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm.ingress.models import Model
from sagellm.ingress.openai.bodies import ChatBody, CompletionBody
from sagellm.ingress.openai.decoding import BodyDecoder
from sagellm.ingress.openai.translate import chat_requests, completion_requests
from sagellm_schemas import InferenceRequest, InvalidRequest, SageError, encode

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "tiny", "prompt": "Hi"}
chat_decoder = BodyDecoder(ChatBody)
completion_decoder = BodyDecoder(CompletionBody)


async def chat(model: Model, body: Any) -> list[InferenceRequest]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await chat_requests(chat_decoder.decode(data), model, "chatcmpl-1", "r.x", 16)


async def complete(model: Model, body: Any) -> list[InferenceRequest]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await completion_requests(completion_decoder.decode(data), model, "cmpl-1", "r.x", 16)


WRONG_VALUES = {
    "model": [None, 1, []],
    "messages": [None, "Hi", {}, [], [1], [{"content": "no role"}], [{"role": "king", "content": "x"}]],
    "temperature": ["1", -0.1, 2.1, [], True, float("nan"), float("inf")],
    "top_p": [0, 1.5, "x"],
    "top_k": [-2, 1.5, 1 << 70],
    "min_p": [-1, 2],
    "presence_penalty": [3, -3, "0"],
    "frequency_penalty": [2.5],
    "repetition_penalty": [0, -1, 11],
    "max_tokens": [0, -1, "5", 1.5],
    "max_completion_tokens": [0, -5],
    "min_tokens": [-1],
    "n": [0, -1, 17, "2", 10**30],
    "seed": ["x", 1.5, 1 << 64],
    "stop": [5, [1], [""], "", ["x"] * 17],
    "stop_token_ids": [5, ["x"], [1 << 80]],
    "logprobs": [5, "yes"],
    "top_logprobs": [-1, 21, "x", 3],
    "stream": ["yes", 1],
    "stream_options": [{"include_usage": True}, {"unknown": 1}, 5],
    "priority": ["urgent", 5, -1, 1.5, True, []],
    "slo_deadline_ms": [0, -1, "fast", float("nan")],
    "ttft_slo_ms": [0],
    "tbt_slo_ms": [-5],
    "cost_budget": [0, "1"],
    "tags": [5, [1], {"a": 1}],
    "user": [5],
    "can_be_preempted": ["no", 0],
    "billing_tier": [3],
    "unheard_of": [1, None],
}
WRONG = [(name, value) for name, values in WRONG_VALUES.items() for value in values]

UNSUPPORTED = {
    "tools": [{"type": "function"}],
    "tool_choice": {"type": "function"},
    "functions": [{}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "logit_bias": {"5": 100},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "prediction": {"type": "content"},
    "reasoning_effort": "high",
    "verbosity": "low",
    "web_search_options": {"x": 1},
    "store": True,
}


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: str(v)[:20])
async def test_a_wrong_value_is_refused_and_its_field_named(model: Model, name: str, value: Any):
    with pytest.raises(SageError) as refused:
        await chat(model, CHAT | {name: value})
    assert refused.value.http_status == 400
    param = refused.value.param or ""
    assert param.split(".")[0].split("[")[0] == name
    assert param.split(".")[-1].split("[")[0] in refused.value.message


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED.items())
async def test_what_is_not_implemented_is_refused_by_name(model: Model, name: str, value: Any):
    with pytest.raises(SageError) as refused:
        await chat(model, CHAT | {name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    assert name in refused.value.message


@pytest.mark.parametrize(
    "harmless",
    [
        dict.fromkeys(UNSUPPORTED),
        {"tools": [], "functions": [], "logit_bias": {}, "tool_choice": "none", "function_call": "auto"},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False, "parallel_tool_calls": True},
        {"metadata": {"a": [1, {"b": None}]}, "service_tier": "auto"},
        {"safety_identifier": "x", "prompt_cache_key": "y"},
        {"top_k": -1, "temperature": None, "stop": None, "n": None, "seed": None, "max_tokens": None},
        {"logprobs": False, "top_logprobs": 0},
        {"temperature": 1, "stream": True, "stream_options": {"include_usage": False}},
    ],
)
async def test_what_asks_for_nothing_is_let_through(model: Model, harmless: dict[str, Any]):
    (request,) = await chat(model, CHAT | harmless)
    assert request.prompt_token_ids


@pytest.mark.parametrize(
    ("given", "expected"),
    [("x", ["x"]), (["x", "y"], ["x", "y"]), (None, []), ([], [])],
)
async def test_stop_is_a_text_or_a_list_of_texts(model: Model, given: Any, expected: list[str]):
    assert (await chat(model, CHAT | {"stop": given}))[0].sampling.stop == expected


async def test_tags_are_a_list_or_a_map(model: Model):
    assert (await chat(model, CHAT | {"tags": ["a", "b"]}))[0].tags == {"a": "", "b": ""}
    assert (await chat(model, CHAT | {"tags": {"a": "1"}}))[0].tags == {"a": "1"}


async def test_seeds_of_several_choices_differ_and_never_overflow(model: Model):
    requests = await chat(model, CHAT | {"n": 3, "seed": (1 << 63) - 2})
    assert [r.sampling.seed for r in requests] == [(1 << 63) - 2, (1 << 63) - 1, -(1 << 63)]
    for request in requests:
        request.verify()


async def test_two_requests_without_a_seed_get_different_ones(model: Model):
    seeds = {(await chat(model, CHAT))[0].sampling.seed for _ in range(4)}
    assert len(seeds) == 4


async def test_the_context_may_be_filled_to_its_last_token(model: Model):
    prompt = [5] * 60
    assert await complete(model, {"model": "tiny", "prompt": prompt, "max_tokens": 40})
    with pytest.raises(SageError) as refused:
        await complete(model, {"model": "tiny", "prompt": prompt, "max_tokens": 41})
    assert refused.value.code == "context_length_exceeded"
    assert "100" in refused.value.message
    assert "60" in refused.value.message


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"suffix": "x"}, "unsupported_parameter"),
        ({"best_of": 2}, "unsupported_parameter"),
        ({"echo": True, "logprobs": 1}, "unsupported_parameter"),
        ({"prompt": []}, "invalid_request"),
        ({"prompt": [[]]}, "invalid_request"),
        ({"prompt": [-1]}, "invalid_request"),
        ({"prompt": ["x"] * 257}, "invalid_request"),
        ({"prompt": ["x", [1]]}, "invalid_request"),
        ({"prompt": {"text": "x"}}, "invalid_request"),
        ({"logprobs": 21}, "invalid_request"),
    ],
)
async def test_a_completion_that_cannot_be_done_is_refused(model: Model, extra: dict[str, Any], code: str):
    with pytest.raises(SageError) as refused:
        await complete(model, COMPLETION | extra)
    assert (refused.value.code, refused.value.param) == (code, next(iter(extra)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__, "role"}))
bodies = st.dictionaries(fields, values, max_size=4)


@given(changes=bodies, garbage=st.binary(max_size=6), cut=st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
async def test_any_body_becomes_requests_or_an_error_of_ours(
    model: Model, changes: dict[str, Any], garbage: bytes, cut: int
):
    for translate, base in ((chat, CHAT), (complete, COMPLETION)):
        whole = json.dumps(base | changes).encode()
        for data in (whole, whole[:cut] + garbage + whole[cut:], garbage):
            requests: list[InferenceRequest] = []
            with contextlib.suppress(InvalidRequest):
                requests = await translate(model, data)
            for request in requests:
                request.verify()
                assert encode(request)
