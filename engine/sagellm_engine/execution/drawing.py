"""What an executor does beyond `Executor` if it draws the tokens too, while the host does something else."""

from typing import Protocol

from .row_sampling import RowSampling
from .span import Span


class DrawnTokens(Protocol):
    """A step under way."""

    def tokens(self) -> list[int]:
        """Wait for the tokens, one for each wanted row; -1 where a score is not a finite number."""
        ...


class DrawingExecutor(Protocol):
    """Starts steps without waiting for them."""

    def launch(
        self,
        token_ids: list[int],
        positions: list[int],
        spans: list[Span],
        logits_rows: list[int],
        sampling: RowSampling,
    ) -> DrawnTokens:
        """Start a step as `Executor.forward` runs it, and draw a token for each of `logits_rows`.

        Token id -1 - i stands for the token that the launch before draws for its wanted row number i.
        """
        ...
