"""What a routing strategy is: the choice of one instance out of those that can take a request now."""

from typing import ClassVar, Protocol

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest


class Router(Protocol):
    """Chooses where a request runs."""

    name: ClassVar[str]

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """One of `candidates`: ready instances of the request's model, each with a free credit, never empty.

        Loads already count what this pass has assigned. `Candidates` has what makes a choice among a thousand
        cheap: the least by some key, one by id or by position, those on one machine.
        """
        ...
