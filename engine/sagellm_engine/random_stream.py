"""The randomness of an answer: one number per position, from the seed and the position alone.

So an answer that is continued elsewhere, or computed again after a preemption, draws the same numbers.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def uniform(seeds: list[int], positions: list[int]) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair of seed (any 64-bit integer) and position.

    SplitMix64 (Steele, Lea and Flood, 2014), used as a counter-based generator: position p of a seed is the p-th
    output of the generator whose state starts at the mixed seed. 32 bits of it are used.
    """
    seed = np.array([s & _MASK for s in seeds], dtype=np.uint64)
    position = np.array(positions, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return (_mix(_mix(seed + _GOLDEN) + (position + np.uint64(1)) * _GOLDEN) >> np.uint64(32)) / 2.0**32


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
