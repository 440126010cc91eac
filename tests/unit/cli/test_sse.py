"""Reading streamed answers, however they were cut into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.cli.bench.connection import Answer
from sagellm.cli.bench.sse import AnswerReader

CHAT = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def answer(*pieces: bytes, status: int = 200) -> Answer:
    made = Answer()
    made.status = status
    made.pieces = list(pieces)
    made.arrivals_s = [float(i + 1) for i in range(len(pieces))]
    return made


def test_events_count_when_their_last_byte_arrives() -> None:
    first_text = CHAT.index(b"Hel")
    found = AnswerReader().read(answer(CHAT[:first_text], CHAT[first_text:]))
    assert found.error is None
    assert found.ttft_ms == 2000.0  # the piece with the role alone brought no token


@given(st.lists(st.integers(1, len(CHAT) - 1), max_size=12))
def test_no_cut_changes_what_is_read(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CHAT)]
    found = AnswerReader().read(answer(*(CHAT[a:b] for a, b in pairwise(edges))))
    assert found.error is None
    assert (found.prompt_tokens, found.output_tokens) == (3, 2)
    assert len(found.itl_ms) == 1


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (answer(CHAT.replace(b"data: [DONE]\n\n", b"")), "the stream ended without [DONE]"),
        (answer(b'data: {"error":{"message":"it broke"}}\n\n'), "it broke"),
        (answer(b'{"error":{"message":"no such model"}}', status=404), "HTTP 404: no such model"),
        (answer(b"<html>", status=502), "HTTP 502: <html>"),
        (answer(b"data: [DONE]\n\n"), "the server sends no usage; it must know stream_options.include_usage"),
    ],
)
def test_what_goes_wrong_is_told(made: Answer, error: str) -> None:
    assert AnswerReader().read(made).error == error


def test_an_answer_that_is_no_json_is_an_error() -> None:
    assert str(AnswerReader().read(answer(b"data: {oops\n\n")).error).startswith("not an OpenAI answer")
