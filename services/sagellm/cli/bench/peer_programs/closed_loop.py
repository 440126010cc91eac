"""The load for a peer that is stepped: so many requests in flight, the next one sent when one has ended."""

import time
from collections import deque
from typing import Protocol

from .protocol import Load, Timing


class Stepped(Protocol):
    """An engine that runs all its requests one step further at a time."""

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Take a request; it begins with the next step."""
        ...

    def step(self) -> dict[int, int]:
        """Run one step; how many tokens each request got in it."""
        ...


def run_closed_loop(engine: Stepped, load: Load) -> list[Timing]:
    """Send all prompts of `load`."""
    waiting = deque(enumerate(load["prompts"]))
    timings: list[Timing] = []
    in_flight = 0
    while waiting or in_flight:
        while waiting and in_flight < load["concurrency"]:
            request, prompt = waiting.popleft()
            timings.append({"sent_s": time.perf_counter(), "arrivals_s": [], "output_tokens": 0})
            engine.add(request, prompt, load["output_tokens"])
            in_flight += 1
        progress = engine.step()
        now_s = time.perf_counter()
        for request, tokens in progress.items():
            timing = timings[request]
            timing["arrivals_s"].append(now_s)
            timing["output_tokens"] += tokens
            in_flight -= timing["output_tokens"] >= load["output_tokens"]
    return timings
