"""How far apart the users are in the service they get while both have requests waiting."""

from collections.abc import Mapping, Set

import numpy as np

from sagellm.scheduler.policies.fair import service_tokens

MAX_USERS = 200
"""With more users nothing is measured: every pair is looked at."""


class ServiceGap:
    """The largest difference in service between two users, over every pair and every span of time in which both
    wait all along: what theorem 4.4 of Sheng et al., "Fairness in Serving Large Language Models"
    (OSDI 2024) bounds. Service is 1 for a token of input, 2 for one of output.
    """

    def __init__(self, users: Set[str]) -> None:
        self.gap_tokens = 0.0
        self._places = {user: place for place, user in enumerate(sorted(users))}
        count = len(self._places)
        self._low = np.full((count, count), np.inf)
        self._high = np.full((count, count), -np.inf)

    @property
    def measures(self) -> bool:
        """Whether there are users to compare, and not too many."""
        return 1 < len(self._places) <= MAX_USERS

    def sample(self, service_tokens: Mapping[str, float], waiting: Set[str]) -> None:
        """So much service each user has had up to now, and these have requests in the queue."""
        waits = np.zeros(len(self._places), dtype=bool)
        had = np.zeros(len(self._places))
        for user, place in self._places.items():
            waits[place] = user in waiting
            had[place] = service_tokens.get(user, 0.0)
        both = waits[:, None] & waits[None, :]
        ahead = had[:, None] - had[None, :]
        self._low = np.where(both, np.minimum(self._low, ahead), np.inf)
        self._high = np.where(both, np.maximum(self._high, ahead), -np.inf)
        if both.any():
            self.gap_tokens = max(self.gap_tokens, float((self._high - self._low)[both].max()))


def bound_tokens(longest_input: int, batch_tokens: int) -> float:
    """The bound of the theorem: twice the larger of one input's service and that of all output of one batch, of
    which `batch_tokens` fit the KV caches."""
    return 2 * max(service_tokens(longest_input, 0), service_tokens(0, batch_tokens))
