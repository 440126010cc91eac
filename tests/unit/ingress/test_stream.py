import json

from hypothesis import given
from hypothesis import strategies as st

from sagellm.ingress.openai.answer import DONE, Answer
from sagellm.ingress.openai.stream import CHAT, COMPLETION, ChunkStream
from sagellm_schemas import Cancelled, Failed, Finished, QueueFull, Tokens, Usage

ANSWER = Answer(id="chatcmpl-1", created=5, model='my "model"\n', choices=2, choices_per_prompt=2)


def parsed(data: bytes) -> list[dict]:
    events = data.split(b"\n\n")
    assert events.pop() == b""
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


@given(texts=st.lists(st.text(min_size=1), min_size=1))
def test_any_text_comes_out_of_the_stream_as_it_went_in(texts: list[str]):
    for wording, read in (
        (CHAT, lambda choice: choice["delta"].get("content", "")),
        (COMPLETION, lambda choice: choice["text"]),
    ):
        stream = ChunkStream(ANSWER, wording)
        events = [(1, Tokens(id="", offset=i, token_ids=[i], text=text)) for i, text in enumerate(texts)]
        chunks = parsed(stream.add(events[:1]) + stream.add(events[1:]))
        assert "".join(read(chunk["choices"][0]) for chunk in chunks) == "".join(texts)
        assert {chunk["model"] for chunk in chunks} == {'my "model"\n'}
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {1}
        assert stream.tokens == len(texts)


@given(st.lists(st.lists(st.tuples(st.integers(0, 1), st.text()))))
def test_every_choice_has_its_own_text_however_tokens_are_interleaved_and_joined(
    batches: list[list[tuple[int, str]]],
):
    stream = ChunkStream(ANSWER, CHAT)
    data = b"".join(
        stream.add([(choice, Tokens(id="", token_ids=[1], text=text)) for choice, text in batch])
        for batch in batches
    )
    for choice in (0, 1):
        deltas = [c["choices"][0] for c in parsed(data) if c["choices"][0]["index"] == choice]
        texts = [text for batch in batches for owner, text in batch if owner == choice]
        assert "".join(delta["delta"]["content"] for delta in deltas) == "".join(texts)
        assert all(
            delta["delta"].get("role") == ("assistant" if i == 0 else None) for i, delta in enumerate(deltas)
        )
    assert stream.tokens == sum(map(len, batches))


def test_tokens_without_text_are_no_chunk():
    stream = ChunkStream(Answer(id="x", created=0, model="m"), COMPLETION)
    assert stream.add([(0, Tokens(id="", token_ids=[1]))]) == b""
    assert stream.tokens == 1


def test_the_stream_is_complete_when_every_choice_has_finished():
    stream = ChunkStream(ANSWER, CHAT)
    assert stream.open_choices == 2
    chunks = parsed(stream.add([(0, Finished(id="")), (1, Finished(id=""))]))
    assert stream.open_choices == 0
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, "stop", None, "stop"]
    assert stream.end() == DONE


def test_usage_counts_a_prompt_once_and_every_completion():
    answer = Answer(id="x", created=0, model="m", choices=4, choices_per_prompt=2, include_usage=True)
    stream = ChunkStream(answer, COMPLETION)
    usage = Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=8)
    stream.add([(choice, Finished(id="", usage=usage)) for choice in range(4)])
    end = stream.end()
    assert end.endswith(DONE)
    (chunk,) = parsed(end.removesuffix(DONE))
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 12,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


def test_an_error_ends_the_stream_and_is_kept():
    full = Failed(id="", error=QueueFull("full").body())
    for event, code in ((full, "queue_full"), (Cancelled(id=""), "cancelled")):
        stream = ChunkStream(ANSWER, CHAT)
        stream.add([(0, Tokens(id="", token_ids=[1], text="a")), (1, event)])
        assert stream.error is not None
        assert stream.error.code == code
