"""affinity: requests of one session, or else of one user, go to the same instance."""

from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest

from .load_balanced import by_load
from .rendezvous import key_of, scores

SESSION_TAG = "session"


class Affinity:
    """By rendezvous hashing of `tags["session"]`, or else of `user_id`: no table to keep, and an instance
    that comes or goes moves few users. While its instance is full, a user has a second one, always the same.
    Requests that name neither go to the least loaded."""

    name: ClassVar[str] = "affinity"

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The first in the ranking of this session or user."""
        owner = owner_of(request)
        if len(candidates) == 1:
            return candidates[0]
        if not owner:
            return candidates.least(by_load)
        return candidates[int(scores(key_of(owner.encode()), candidates).argmax())]


def owner_of(request: TrackedRequest) -> str:
    """Whose request it is: its session if it names one, or else its user; empty if it names neither."""
    return request.request.tags.get(SESSION_TAG) or request.request.user_id
