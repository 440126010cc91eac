import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.ingress.inbox import Inbox
from sagellm.ingress.reader import Reader
from sagellm_schemas import Failed, Finished, PositionLogprobs, TokenLogprob, Tokens

WORDS = ["a", "", "bc", "déf", "🙂", "", "", "ghijk", " ", "\n", "l", "mn"]


def tokens(start: int, stop: int, attempt: int) -> Tokens:
    return Tokens(
        id="r",
        attempt=attempt,
        offset=start,
        token_ids=list(range(start, stop)),
        text="".join(WORDS[start:stop]),
    )


def reader() -> tuple[Reader, Inbox]:
    inbox = Inbox(asyncio.new_event_loop())
    inbox._loop.close()
    return Reader(0, inbox), inbox


def received(inbox: Inbox) -> tuple[list[int], str]:
    events = [event for _, event in inbox._events if type(event) is Tokens]
    offset = 0
    for event in events:
        assert event.offset == offset
        offset += len(event.token_ids)
    return [i for event in events for i in event.token_ids], "".join(event.text for event in events)


@st.composite
def attempts(draw: st.DrawFn) -> list[Tokens]:
    """Several attempts, each cut off somewhere, and the last one complete; each starts at a step of the first,
    at the beginning, or where the one before ended."""
    cuts = sorted(draw(st.sets(st.integers(1, len(WORDS) - 1))) | {0, len(WORDS)})
    made: list[Tokens] = []
    held = 0
    for attempt in range(1, draw(st.integers(1, 4)) + 1):
        starts = [cut for cut in cuts if cut <= held]
        steps = cuts[draw(st.integers(0, len(starts) - 1)) :]
        last = draw(st.integers(1, len(steps)))
        for start, stop in list(itertools.pairwise(steps))[:last]:
            made.append(tokens(start, stop, attempt))
            if draw(st.booleans()):
                made.append(made[-1])  # delivered twice
            held = max(held, stop)
    done = attempt + 1
    first = draw(st.sampled_from([cut for cut in cuts if cut <= held]))
    made += [tokens(a, b, done) for a, b in itertools.pairwise(cuts) if a >= first]
    return made


@given(events=attempts())
def test_however_often_an_answer_is_run_again_its_reader_sees_every_token_once(events: list[Tokens]):
    one, inbox = reader()
    for event in events:
        assert one.feed(event) == "more"
    assert received(inbox) == (list(range(len(WORDS))), "".join(WORDS))
    assert one.held.tolist() == list(range(len(WORDS)))
    assert one.feed(Finished(id="r", attempt=99)) == "ended"


def test_events_of_lower_attempts_are_dropped_even_terminal_ones():
    one, inbox = reader()
    one.feed(tokens(0, 2, 3))
    assert one.feed(tokens(2, 4, 2)) == "more"
    assert one.feed(Finished(id="r", attempt=2)) == "more"
    one.expect(5)
    assert one.feed(Finished(id="r", attempt=4)) == "more"
    assert received(inbox) == ([0, 1], "a")


def test_after_a_hole_nothing_of_that_attempt_is_passed_on():
    one, inbox = reader()
    one.feed(tokens(0, 2, 1))
    assert one.feed(tokens(3, 4, 1)) == "gap"
    assert one.feed(tokens(4, 5, 1)) == "more"
    assert one.feed(tokens(2, 3, 1)) == "more"
    assert received(inbox) == ([0, 1], "a")
    assert one.feed(tokens(2, 5, 2)) == "more"
    assert received(inbox)[0] == [0, 1, 2, 3, 4]


def test_an_answer_that_finishes_with_a_hole_is_an_error_and_not_a_wrong_answer():
    one, inbox = reader()
    one.feed(tokens(0, 2, 1))
    one.feed(tokens(3, 4, 1))
    assert one.feed(Finished(id="r", attempt=1)) == "ended"
    last = inbox._events[-1][1]
    assert type(last) is Failed
    assert last.error.code == "unavailable"


def test_logprobs_are_trimmed_with_their_tokens():
    def position(i: int) -> PositionLogprobs:
        return PositionLogprobs(chosen=TokenLogprob(token_id=i, token=WORDS[i], logprob=-1.0))

    one, inbox = reader()
    one.feed(tokens(0, 3, 1))
    whole = tokens(0, 4, 2)
    one.feed(msgspec.structs.replace(whole, logprobs=[position(i) for i in whole.token_ids]))
    event = inbox._events[-1][1]
    assert (event.token_ids, event.text, event.logprobs) == ([3], "déf", [position(3)])


@pytest.mark.parametrize("leaving", [True, False])
async def test_taking_waits_for_an_event_or_for_the_client_to_leave(leaving: bool):
    inbox = Inbox(asyncio.get_running_loop())
    taking = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    if leaving:
        inbox.leave()
        inbox.leave()
        assert await taking == []
    else:
        inbox.put(0, tokens(0, 1, 1))
        inbox.put(1, tokens(0, 1, 1))
        assert [choice for choice, _ in await taking] == [0, 1]
