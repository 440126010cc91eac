"""`RowSampling`: how the tokens of a step are drawn where its scores are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowSampling:
    """One entry for each row whose scores are wanted.

    A temperature below `sampler.GREEDY_BELOW` takes the best token; `top_k` 0, `top_p` 1 and `min_p` 0 are no
    limits; `uniforms` are the numbers in [0, 1) that the tokens are drawn with.
    """

    temperatures: list[float]
    top_k: list[int]
    top_p: list[float]
    min_p: list[float]
    uniforms: list[float]

    @classmethod
    def greedy(cls, rows: int) -> "RowSampling":
        """The best token of every row."""
        return cls([0.0] * rows, [0] * rows, [1.0] * rows, [0.0] * rows, [0.0] * rows)
