"""prefix_aware: where most of the prompt is in the prefix cache, weighed against the load."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance
from sagellm.scheduler.prompt_hashes import PromptHashes
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import PackedTokens
from sagellm_schemas.prefix import root_of

from .load_balanced import by_load

MAX_BLOCKS = 512
"""Blocks of a prompt that are looked at: 8,192 tokens with blocks of 16."""
MAX_HOLDERS = 16
"""Instances that are weighed, of those that hold something."""
REQUEST_TOKENS = 64
"""How many prompt tokens to compute are as bad as one more request beside."""


class PrefixAware:
    """Least `tokens to compute + 64 * requests that run there`, among those that hold the longest prefixes and the
    least loaded of all.

    What instances hold is known from their own reports (`Candidates.prefixes`); what has been routed and not been
    reported yet counts as held, so that a burst of one conversation stays together. Prompts that come as text are
    not hashed here: they go to the least loaded.
    """

    name: ClassVar[str] = "prefix_aware"

    def __init__(self) -> None:
        self._random = Random(0)
        self._hashes = PromptHashes()

    def choose(self, request: TrackedRequest, candidates: Candidates) -> Instance:
        """The cheapest; from now on it counts as holding this prompt."""
        index = candidates.prefixes
        if request.request.prompt_token_ids is None or index is None:
            return candidates.least(by_load)
        tokens = _int32(request.request.prompt_token_ids) + _int32(request.resume_token_ids)
        count = request.prompt_tokens + len(request.resume_token_ids)
        blocks = self._hashes.of(tokens, index.block_size, MAX_BLOCKS, root_of(request.request.adapter))
        best = candidates.least(by_load)
        if len(candidates) > 1 and (levels := index.levels(blocks)):
            best_cost = _cost(best, index.held(best.id, levels) * index.block_size, count)
            start = int(self._random.random() * index.slots)
            tried = 0
            seen = 0
            for depth, holders in reversed(levels):
                for instance_id in index.ids(holders & ~seen, start, MAX_HOLDERS - tried):
                    instance = candidates.get(instance_id)
                    tried += 1
                    if instance is not None:
                        cost = _cost(instance, depth * index.block_size, count)
                        if cost < best_cost:
                            best, best_cost = instance, cost
                seen = holders
                if tried >= MAX_HOLDERS:
                    break
        index.add(best.id, blocks)
        return best


def _int32(token_ids: Sequence[int]) -> bytes:
    return (token_ids if isinstance(token_ids, PackedTokens) else PackedTokens(token_ids)).int32


def _cost(instance: Instance, held_tokens: int, prompt_tokens: int) -> float:
    """In prompt tokens. The last token of a prompt is always computed."""
    return max(1, prompt_tokens - held_tokens) + REQUEST_TOKENS * len(instance.assigned)
