"""How much of a trace's prompts any prefix cache could hold at best."""

from collections.abc import Iterable

from .request import TraceRequest


def shareable(requests: Iterable[TraceRequest], block_size: int) -> float:
    """The prefix hit rate of one cache that all instances share and that forgets nothing, over all prompt tokens.

    A block is there as soon as a request that has it has arrived; the last token of a prompt is always computed,
    and KV is shared in blocks of `block_size` tokens.
    """
    seen: set[int] = set()
    hits = total = 0
    for request in requests:
        found = 0
        for block in request.blocks:
            if block not in seen:
                break
            found += 1
        most = (request.input_tokens - 1) // block_size * block_size
        hits += min(found * request.block_tokens // block_size * block_size, most)
        total += request.input_tokens
        seen.update(request.blocks)
    return hits / total if total else 0.0
