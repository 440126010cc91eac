"""One request inside a simulated instance."""

from array import array
from collections.abc import Sequence
from typing import Literal

from .kv import Holding

End = Literal["started", "finished", "handed_over"]
"""What a step may bring a job to: its prompt is computed and it goes on, it is complete, or goes on elsewhere."""


class Job:
    """What an instance must compute, and how far it is.

    With `hands_over` it ends as soon as its prompt is computed; its blocks stay until they are freed.

    `hashes` name its first blocks; None means that no other job has the same, so that nothing need be `named`.
    `output_tokens` is when the answer ends. `context` are the tokens whose KV has to be there before the next
    token can be sampled: prompt and what is written already. `computed` of them are there. `token_times_s`
    are collected over all instances that worked on the request. With a `tbt_slo_s` steps beside it are paced.
    """

    __slots__ = (
        "arrival",
        "cached_tokens",
        "computed",
        "finish_step",
        "first_step",
        "generated",
        "hands_over",
        "hashes",
        "holding",
        "id",
        "input_tokens",
        "named",
        "output_tokens",
        "preemptions",
        "priority",
        "tbt_slo_s",
        "token_times_s",
    )

    def __init__(
        self,
        id: str,  # noqa: A002
        input_tokens: int,
        output_tokens: int,
        priority: int = 2,
        hashes: Sequence[bytes] | None = None,
        tbt_slo_s: float | None = None,
    ) -> None:
        self.id = id
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.priority = priority
        self.hashes = list(hashes or ())
        self.named = hashes is not None
        self.tbt_slo_s = tbt_slo_s
        self.generated = 0
        self.computed = 0
        self.arrival = 0
        self.hands_over = False
        self.first_step = self.finish_step = -1
        self.cached_tokens: int | None = None
        self.preemptions = 0
        self.holding = Holding()
        self.token_times_s = array("d")

    def name_blocks(self, count: int) -> None:
        """Name the first `count` blocks, as far as they are not known, by names that no other job has."""
        self.hashes += (f"{self.id}/{index}".encode() for index in range(len(self.hashes), count))

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service within an instance."""
        return self.priority, self.arrival

    @property
    def context(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.input_tokens + self.generated
