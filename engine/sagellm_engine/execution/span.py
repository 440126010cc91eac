"""`Span`: the rows of a step that belong to one sequence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a step that belong to one sequence.

    Rows `row` … `row + num_tokens - 1` of the step are the sequence's positions `start` … ; `blocks` hold at least
    its first `start + num_tokens` tokens. `adapter` is an index into the executor's adapters, None without one.
    """

    row: int
    num_tokens: int
    start: int
    blocks: list[int]
    adapter: int | None = None

    @property
    def end(self) -> int:
        """Tokens that the last row attends to, itself included."""
        return self.start + self.num_tokens
