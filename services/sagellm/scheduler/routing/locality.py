"""locality: prompts that begin alike go to the same instance, where the beginning is in the prefix cache."""

from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import InferenceRequest, encode

from .load_balanced import by_load
from .rendezvous import key_of, scores

PREFIX_TOKENS = 64
PREFIX_CHARS = 256
SPREAD = 1.25
"""An instance may have this much more than the average load."""
TRIES = 4


class Locality:
    """By rendezvous hashing of the prompt's first 64 tokens (of a prompt that is still text, 256 characters).

    Nothing has to be known of the caches. A beginning that is very common would fill its instance, so an instance
    with more than 1.25 times the average load is passed over for the next in the ranking
    (V. Mirrokni et al., "Consistent Hashing with Bounded Loads", 2018).
    """

    name: ClassVar[str] = "locality"

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The first in the ranking of this prefix that is not overloaded; after a few tries the least loaded."""
        if len(candidates) == 1:
            return candidates[0]
        ranking = scores(key_of(_prefix(request.request)), candidates)
        bound = SPREAD * candidates.load
        for _ in range(TRIES):
            position = int(ranking.argmax())
            instance = candidates[position]
            if len(instance.assigned) < bound * instance.capacity + 1:
                return instance
            ranking[position] = 0
        return candidates.least(by_load)


def _prefix(request: InferenceRequest) -> bytes:
    if request.prompt_token_ids is not None:
        return encode(list(request.prompt_token_ids[:PREFIX_TOKENS]))
    if request.prompt is not None:
        return request.prompt[:PREFIX_CHARS].encode()
    text = "\n".join(message.text() for message in (request.messages or ())[:2])
    return text[:PREFIX_CHARS].encode()
