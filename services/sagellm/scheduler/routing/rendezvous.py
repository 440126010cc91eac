"""Rendezvous hashing: every key has its own ranking of the instances, so one that goes moves only its own keys.

D. Thaler, C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996. The score of an instance for a key
is SplitMix64's finalizer of the exclusive or of their 64-bit hashes; all candidates are scored at once.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from sagellm.scheduler.candidates import Candidates

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def key_of(data: bytes) -> int:
    """The 64-bit hash of what a request is routed by."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def scores(key: int, candidates: Candidates) -> NDArray[np.uint64]:
    """The score of each candidate for `key`, position by position: the highest is the one to take."""
    mixed = np.frombuffer(candidates.seeds, dtype=np.uint64) ^ np.uint64(key)
    mixed ^= mixed >> _SHIFTS[0]
    mixed *= _FIRST
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _SECOND
    mixed ^= mixed >> _SHIFTS[2]
    return mixed
