"""What followed the latest tokens earlier is found, and finding it does not take longer as texts grow."""

from hypothesis import given
from hypothesis import strategies as st

from sagellm_engine.sequence import Sequence
from sagellm_engine.speculation import NgramProposer
from sagellm_engine.speculation.ngram import continuation
from sagellm_engine.speculation.ngram_index import MOST_CANDIDATES, Match, NgramIndex
from sagellm_schemas import SamplingParams


def sequence_of(tokens: list[int]) -> Sequence:
    return Sequence("s", list(tokens), SamplingParams(), max_tokens=99)


def proposal(tokens: list[int], most: int = 4, shortest: int = 1) -> list[int]:
    proposer, sequence = NgramProposer(shortest), sequence_of(tokens)
    if proposer.look(sequence, most) is None:
        return []
    return proposer.propose({sequence: most})[sequence]


def slow_match(tokens: list[int], longest: int) -> Match | None:
    """The same by looking everywhere."""
    best = None
    for place in range(len(tokens) - 1):
        length = 0
        while length < min(longest, place + 1) and tokens[place - length] == tokens[-1 - length]:
            length += 1
        if length and (best is None or length >= best.tokens):
            best = Match(length, place + 1)
    return best


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=MOST_CANDIDATES),
    st.integers(1, 6),
    st.lists(st.integers(1, 5), max_size=10),
)
def test_the_longest_match_is_found_and_of_equal_ones_the_latest(
    tokens: list[int], longest: int, cuts: list[int]
) -> None:
    longest = max(2, longest)
    index, end = NgramIndex(longest), 1
    for cut in cuts:  # it grows with the text, by one token or several
        index.extend(tokens[:end])
        assert index.match(tokens[:end]) == slow_match(tokens[:end], longest)
        end = min(len(tokens), end + cut)
    index.extend(tokens)
    assert index.match(tokens) == slow_match(tokens, longest)


def test_what_followed_a_match_is_proposed() -> None:
    assert proposal([1, 2, 3, 4, 5, 9, 1, 2]) == [3, 4, 5, 9]
    assert proposal([1, 2, 3, 7, 1, 2, 4, 8, 2, 3], most=2) == [7, 1]
    assert proposal([1, 2, 3, 4]) == []
    assert proposal([5]) == []


def test_a_text_that_repeats_itself_is_expected_to_go_on_with_it() -> None:
    assert proposal([7, 1, 2, 1, 2], most=5) == [1, 2, 1, 2, 1]
    assert continuation([4, 5, 6], 2, 4) == [6, 6, 6, 6]


def test_matches_that_are_too_short_count_as_none() -> None:
    assert proposal([1, 5, 2, 1], shortest=2) == []
    assert proposal([1, 5, 2, 1, 5], shortest=2) == [2, 1, 5, 2]


def test_the_outlook_tells_how_long_the_match_is() -> None:
    proposer = NgramProposer()
    short = proposer.look(sequence_of([1, 2, 3, 9, 1, 2, 3]), 5)
    long = proposer.look(sequence_of([*range(20), 99, *range(20)]), 5)
    assert short is not None
    assert long is not None
    assert (short.tokens, short.kind, long.kind) == (5, 3, 8)
    assert short.first_chance < long.first_chance


def test_nothing_is_kept_of_a_sequence_that_has_ended() -> None:
    proposer, sequence = NgramProposer(), sequence_of([1, 2, 1, 2])
    proposer.look(sequence, 3)
    proposer.forget(sequence)
    assert not proposer._indexes
    assert not proposer._found
