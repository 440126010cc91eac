"""Text comes out whole, stops where it should, and depends on the tokens alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_engine.answer import Answer
from sagellm_engine.detokenizer import Detokenizer
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import FinishReason, SamplingParams

EOS = 256


def pieces(tokenizer: Tokenizer, text: str, stop: list[str] | None = None, min_tokens: int = 0) -> list[str]:
    """What comes out with each byte of `text`, up to a stop string; held text last."""
    detokenizer = Detokenizer(tokenizer, stop or [], min_tokens)
    out = []
    for token_id in text.encode():
        out.append(detokenizer.push(token_id))
        if detokenizer.stop_string is not None:
            return out
    return [*out, detokenizer.flush()]


@pytest.mark.parametrize("text", ["plain", "naïve", "你好世界", "👩‍👩‍👧‍👦 family", "🇨🇳🇫🇷", "mixed 你 and 🎉!"])
def test_a_character_comes_out_whole_with_its_last_byte(tokenizer: Tokenizer, text: str) -> None:
    out = pieces(tokenizer, text)
    assert "".join(out) == text
    assert "\ufffd" not in "".join(out)
    expected = [piece for c in text for piece in [""] * (len(c.encode()) - 1) + [c]]
    assert out == [*expected, ""]


def test_an_unfinished_character_is_never_sent(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    assert "".join(detokenizer.push(t) for t in "a🎉".encode()[:-1]) + detokenizer.flush() == "a"


def test_text_that_may_become_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    out = pieces(tokenizer, "one\nUser: two", ["\nUser:"])
    assert out == ["o", "n", "e", "", "", "", "", "", ""]


def test_held_text_is_sent_when_it_becomes_something_else(tokenizer: Tokenizer) -> None:
    out = pieces(tokenizer, "a\nUsual", ["\nUser:"])
    assert out == ["a", "", "", "", "\nUsu", "a", "l", ""]


def test_held_text_is_sent_at_the_end(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, "a\nUse", ["\nUser:"])[-1] == "\nUse"


def test_the_first_of_several_stop_strings_wins(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, ["cd", "bcd", "zz"])
    assert "".join(detokenizer.push(t) for t in b"abc") == "a"
    assert detokenizer.push(ord("d")) == ""
    assert detokenizer.stop_string == "bcd"


def test_stop_strings_do_not_count_before_min_tokens(tokenizer: Tokenizer) -> None:
    assert "".join(pieces(tokenizer, "stop stop go", ["stop"], min_tokens=4)) == "stop "


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab你🎉\n", max_size=24),
    stop=st.lists(st.text(alphabet="ab你🎉\n", min_size=1, max_size=4), max_size=3),
)
def test_what_is_sent_is_the_text_before_the_first_stop_string(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    # A stop string ends the answer as soon as it is complete, so the earliest end decides.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    earliest_end = min(ends)[0] if ends else 0
    expected = text[: min(start for end, start in ends if end == earliest_end)] if ends else text
    assert "".join(pieces(tokenizer, text, stop)) == expected


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(alphabet="ab你🎉\n", max_size=16),
    stop=st.lists(st.text(alphabet="ab\n", min_size=2, max_size=4), max_size=2),
    data=st.data(),
)
def test_a_resumed_answer_sends_exactly_the_rest(
    tokenizer: Tokenizer, text: str, stop: list[str], data: st.DataObject
) -> None:
    whole = pieces(tokenizer, text, stop)
    tokens = list(text.encode())[: len(whole)]
    cut = data.draw(st.integers(0, max(0, len(whole) - 1)))
    resumed = Detokenizer(tokenizer, stop)
    for token_id in tokens[:cut]:
        resumed.push(token_id)
    rest = "".join(resumed.push(t) for t in tokens[cut:])
    assert rest + resumed.flush() == "".join(whole[cut:])


def answer_of(tokenizer: Tokenizer, max_tokens: int = 99, **params: object) -> Answer:
    return Answer(tokenizer, SamplingParams(**params), eos_token_ids=[EOS], max_tokens=max_tokens)


def test_the_end_of_text_token_ends_the_answer_without_text(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, stop=["bc"])
    assert [answer.push(t) for t in (97, 98, EOS)] == ["a", "", "b"]
    assert (answer.finish_reason, answer.stop_reason) == (FinishReason.STOP, None)


def test_ignore_eos_goes_on_to_the_length(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, max_tokens=3, ignore_eos=True)
    assert "".join(answer.push(t) for t in (97, EOS, 98)) == "ab"
    assert answer.finish_reason is FinishReason.LENGTH


def test_a_stop_token_is_named_as_the_reason(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, stop_token_ids=[98])
    assert "".join(answer.push(t) for t in (97, 98)) == "a"
    assert (answer.finish_reason, answer.stop_reason) == (FinishReason.STOP, 98)


def test_a_stop_string_at_the_last_token_is_a_stop_not_a_length(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, max_tokens=2, stop=["ab"])
    assert "".join(answer.push(t) for t in (97, 98)) == ""
    assert (answer.finish_reason, answer.stop_reason) == (FinishReason.STOP, "ab")


def test_held_text_comes_out_when_the_length_is_reached(tokenizer: Tokenizer) -> None:
    answer = answer_of(tokenizer, max_tokens=2, stop=["abc"])
    assert [answer.push(t) for t in (97, 98)] == ["", "ab"]
    assert answer.finish_reason is FinishReason.LENGTH
