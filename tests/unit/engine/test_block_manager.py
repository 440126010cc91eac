"""Blocks are never lost, never given twice, and shared only by sequences that begin alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sagellm_engine.block_manager import BlockManager
from sagellm_engine.sequence import Sequence
from sagellm_schemas import SamplingParams

BLOCK = 4


def sequence_of(tokens: list[int]) -> Sequence:
    return Sequence("s", list(tokens), SamplingParams(), max_tokens=100)


def compute(blocks: BlockManager, sequence: Sequence) -> None:
    """As the scheduler does: room, work, commit."""
    count = sequence.num_uncomputed
    blocks.grow(sequence, count)
    sequence.num_computed += count
    blocks.commit(sequence)


class Lives(RuleBasedStateMachine):
    """Random lives of sequences over few blocks and few different tokens, so that prefixes often agree."""

    @initialize(num_blocks=st.integers(1, 24), caching=st.booleans())
    def start(self, num_blocks: int, caching: bool) -> None:
        self.blocks = BlockManager(num_blocks, BLOCK, enable_prefix_caching=caching)
        self.caching = caching
        self.living: list[Sequence] = []
        self.told: set[bytes] = set()
        self.written: dict[
            int, tuple[int, ...]
        ] = {}  # block -> all tokens up to its end, as a model would fill it

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=30))
    def arrive(self, tokens: list[int]) -> None:
        sequence = sequence_of(tokens)
        hit_tokens = self.blocks.attach_prefix(sequence)
        assert hit_tokens < len(tokens)
        assert hit_tokens == 0 or self.caching
        for index, block in enumerate(sequence.blocks):
            assert self.written[block] == tuple(tokens[: (index + 1) * BLOCK]), (
                "a block of other tokens was shared"
            )
        if not self.blocks.can_grow(sequence, sequence.num_uncomputed):
            self.blocks.release(sequence)
            return
        self.living.append(sequence)
        self._compute(sequence)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), token=st.integers(0, 1))
    def append(self, data: st.DataObject, token: int) -> None:
        sequence = data.draw(st.sampled_from(self.living))
        if self.blocks.can_grow(sequence, 1):
            sequence.token_ids.append(token)
            self._compute(sequence)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), most=st.integers(1, 12))
    def grow_for_drafts_and_shrink_again(self, data: st.DataObject, most: int) -> None:
        sequence = data.draw(st.sampled_from(self.living))
        before, free = list(sequence.blocks), self.blocks.num_free
        count = min(most, self.blocks.room(sequence))
        assert self.blocks.can_grow(sequence, count)
        assert not self.blocks.can_grow(sequence, self.blocks.room(sequence) + 1)
        self.blocks.grow(sequence, count)
        assert len(sequence.blocks) * BLOCK >= sequence.num_computed + count
        for block in sequence.blocks[len(before) :]:
            self.written.pop(block, None)
        self.blocks.check_integrity(self.living)
        self.blocks.shrink(sequence, 0)
        assert sequence.blocks == before
        assert self.blocks.num_free == free

    @precondition(lambda self: self.living)
    @rule(data=st.data(), forget=st.booleans())
    def leave(self, data: st.DataObject, forget: bool) -> None:
        sequence = data.draw(st.sampled_from(self.living))
        self.living.remove(sequence)
        self.blocks.release(sequence, forget=forget)

    def _compute(self, sequence: Sequence) -> None:
        held = {block for other in self.living if other is not sequence for block in other.blocks}
        before = set(sequence.blocks)
        compute(self.blocks, sequence)
        assert not (set(sequence.blocks) - before) & held, "a new block was somebody else's"
        full = sequence.num_computed // BLOCK
        for index in range(sequence.num_computed // BLOCK):
            self.written[sequence.blocks[index]] = tuple(sequence.token_ids[: (index + 1) * BLOCK])
        for block in sequence.blocks[full:]:
            self.written.pop(block, None)

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "blocks"):
            self.blocks.check_integrity(self.living)
            held = {block for sequence in self.living for block in sequence.blocks}
            assert self.blocks.num_free == self.blocks.num_blocks - len(held)

    @rule()
    def listen(self) -> None:
        for name, present in self.blocks.take_changes().items():
            (self.told.add if present else self.told.discard)(name)
        assert self.told == set(self.blocks._block_of)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_second_sequence_with_the_same_start_shares_its_full_blocks() -> None:
    blocks = BlockManager(16, BLOCK)
    first, second = sequence_of([1] * 10), sequence_of([1] * 10 + [2] * 5)
    compute(blocks, first)
    assert blocks.attach_prefix(second) == 8
    assert second.blocks == first.blocks[:2]


def test_the_last_token_is_always_left_to_compute() -> None:
    blocks = BlockManager(16, BLOCK)
    first, second = sequence_of([1] * 8), sequence_of([1] * 8)
    compute(blocks, first)
    assert blocks.attach_prefix(second) == 4


def test_blocks_of_an_ended_sequence_are_found_again_until_they_are_needed() -> None:
    blocks = BlockManager(4, BLOCK)
    first = sequence_of([1] * 9)
    compute(blocks, first)
    blocks.release(first)
    assert blocks.num_free == 4
    again = sequence_of([1] * 9)
    assert blocks.attach_prefix(again) == 8
    blocks.release(again)
    other = sequence_of([2] * 16)
    compute(blocks, other)
    blocks.release(other)
    assert blocks.attach_prefix(sequence_of([1] * 9)) == 0


def test_the_least_recently_used_block_is_taken_first() -> None:
    blocks = BlockManager(4, BLOCK)
    old, new = sequence_of([1] * 4), sequence_of([2] * 4)
    for sequence in (old, new):
        compute(blocks, sequence)
    for sequence in (old, new):
        blocks.release(sequence)
    compute(blocks, sequence_of([3] * 12))  # two unused blocks and the oldest used one
    assert blocks.attach_prefix(sequence_of([1] * 5)) == 0
    assert blocks.attach_prefix(sequence_of([2] * 5)) == 4


def test_forgotten_blocks_are_not_shared() -> None:
    blocks = BlockManager(8, BLOCK)
    first = sequence_of([1] * 9)
    compute(blocks, first)
    freed = blocks.release(first, forget=True)
    assert sorted(freed) == [0, 1, 2]
    assert blocks.attach_prefix(sequence_of([1] * 9)) == 0


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_without_prefix_caching_nothing_is_shared(tokens: list[int]) -> None:
    blocks = BlockManager(16, BLOCK, enable_prefix_caching=False)
    compute(blocks, sequence_of(tokens))
    assert blocks.attach_prefix(sequence_of(tokens)) == 0


def test_check_integrity_notices_a_lost_block() -> None:
    blocks = BlockManager(4, BLOCK)
    sequence = sequence_of([1] * 6)
    compute(blocks, sequence)
    with pytest.raises(AssertionError, match="reference counts"):
        blocks.check_integrity([])
    sequence.blocks.pop()
    with pytest.raises(AssertionError):
        blocks.check_integrity([sequence])
