"""The load for peers that are stepped."""

from hypothesis import given
from hypothesis import strategies as st

from sagellm.cli.bench.peer_programs.closed_loop import run_closed_loop
from sagellm.cli.bench.peer_programs.protocol import Load


class Engine:
    """Gives each request as many tokens a step as `pace` says; counts what is in flight."""

    def __init__(self, pace: list[int]) -> None:
        self.left: dict[int, int] = {}
        self.seen: dict[int, list[int]] = {}
        self.most = 0
        self._pace = pace

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        self.left[request] = output_tokens
        self.seen[request] = prompt
        self.most = max(self.most, len(self.left))

    def step(self) -> dict[int, int]:
        given = {request: min(left, self._pace[request % len(self._pace)]) for request, left in self.left.items()}
        self.left = {
            request: left - given[request] for request, left in self.left.items() if left > given[request]
        }
        return {request: tokens for request, tokens in given.items() if tokens}


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 7), st.lists(st.integers(1, 3), min_size=1))
def test_every_prompt_is_answered_once_and_no_more_are_in_flight_than_asked(
    requests: int, concurrency: int, output_tokens: int, pace: list[int]
) -> None:
    engine = Engine(pace)
    prompts = [[number, number + 1] for number in range(requests)]
    load: Load = {"prompts": prompts, "concurrency": concurrency, "output_tokens": output_tokens}
    timings = run_closed_loop(engine, load)
    assert [timing["output_tokens"] for timing in timings] == [output_tokens] * requests
    assert all(timing["sent_s"] <= timing["arrivals_s"][0] for timing in timings)
    assert list(engine.seen.values()) == prompts
    assert engine.most == min(concurrency, requests)
