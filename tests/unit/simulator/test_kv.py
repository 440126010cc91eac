"""The KV cache's books."""

from hypothesis import given
from hypothesis import strategies as st

from sagellm.simulator.kv import Holding, KvCache

NAMES = [bytes([i]) * 16 for i in range(6)]


@given(st.lists(st.tuples(st.sampled_from(["start", "end"]), st.integers(0, 5), st.integers(1, 5)), max_size=60))
def test_no_more_blocks_than_there_are_are_ever_held(moves: list[tuple[str, int, int]]) -> None:
    kv = KvCache(8, 4)
    held: list[Holding] = []
    known: set[bytes] = set()
    for move, first, blocks in moves:
        if move == "end" and held:
            kv.release(held.pop(first % len(held)))
        names = NAMES[:blocks] if first < 3 else [bytes([first * 10 + i]) * 16 for i in range(blocks)]
        hits = kv.hits(names, blocks)
        if move == "start" and kv.can_hold(names, hits, blocks):
            holding = Holding()
            kv.share(holding, names[:hits])
            kv.take(blocks - hits)
            holding.private = blocks - hits
            kv.commit(holding, names, blocks)
            held.append(holding)
        kv.check_integrity(held)
        came, went = kv.news()
        known = (known - set(went)) | set(came)
        assert known == set(kv.known)
    for holding in held:
        kv.release(holding)
    assert kv.num_free == 8


def test_the_block_that_was_used_longest_ago_goes_first() -> None:
    kv = KvCache(2, 4)
    for name in NAMES[:2]:
        holding = Holding()
        kv.take(1)
        holding.private = 1
        kv.commit(holding, [name], 1)
        kv.release(holding)
    kv.touch(NAMES[:1])
    kv.take(1)
    assert kv.known == [NAMES[0]]


def test_without_sharing_nothing_is_ever_found() -> None:
    kv = KvCache(2, 4, sharing=False)
    holding = Holding()
    kv.take(1)
    holding.private = 1
    kv.commit(holding, NAMES[:1], 1)
    kv.release(holding)
    assert kv.hits(NAMES, 1) == 0
