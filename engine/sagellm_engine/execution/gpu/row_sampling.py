"""`RowSampling`: how the tokens of a step are drawn on the device."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowSampling:
    """One entry for each row whose scores are wanted; see `kernels.sampling.sample`."""

    temperatures: list[float]
    top_k: list[int]
    top_p: list[float]
    min_p: list[float]
    uniforms: list[float]
