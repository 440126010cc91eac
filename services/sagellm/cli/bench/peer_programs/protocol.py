"""How a peer's program speaks with `sagellm bench engine`: JSON lines, one request and one reply at a time.

    ->  {"model": "/path", "dtype": "bfloat16", "threads": 2, "max_streams": 8, "max_tokens": 256}
    <-  {"ready": {"version": "0.3", ...}}
    ->  {"prompts": [[7, 8, 9], ...], "concurrency": 8, "output_tokens": 128}
    <-  {"duration_s": 4.2, "timings": [{"sent_s": 1.0, "arrivals_s": [1.2, 1.3, ...], "output_tokens": 128}, ...]}
    <-  {"error": "one sentence"}    instead of either reply; after it the program ends

Times are of the program's own `time.perf_counter`: what is measured crosses no pipe. End of input ends it.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Protocol, TypedDict


class Setup(TypedDict):
    """What to load, and how much it must hold: `max_streams` sequences of `max_tokens` each, prompt included."""

    model: str
    dtype: str
    threads: int
    max_streams: int
    max_tokens: int


class Load(TypedDict):
    """One run: every prompt is answered greedily with exactly `output_tokens`, `concurrency` at a time."""

    prompts: list[list[int]]
    concurrency: int
    output_tokens: int


class Timing(TypedDict):
    """One request: when it was handed over, and when each part of its answer came."""

    sent_s: float
    arrivals_s: list[float]
    output_tokens: int


class Peer(Protocol):
    """A loaded peer."""

    def describe(self) -> dict[str, object]:
        """Its version, and what else a reader of the numbers needs."""
        ...

    def run(self, load: Load) -> list[Timing]:
        """Answer all prompts."""
        ...


class CannotCompareError(Exception):
    """The peer cannot be measured; the message is a sentence for the user."""


def serve(start: Callable[[Setup], Peer]) -> None:
    """Load the peer and answer until the input ends."""
    replies = _claim_stdout()
    try:
        peer = start(json.loads(sys.stdin.readline()))
        _reply(replies, {"ready": peer.describe()})
        for line in sys.stdin:
            started_s = time.perf_counter()
            timings = peer.run(json.loads(line))
            _reply(replies, {"duration_s": time.perf_counter() - started_s, "timings": timings})
    except CannotCompareError as error:
        _reply(replies, {"error": str(error)})


def _claim_stdout() -> IO[str]:
    """Standard output for replies alone: what a library prints, from C too, goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: IO[str], reply: dict[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
