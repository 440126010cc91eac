"""Who holds which blocks: the index against a plain model, and the way reports reach it."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sagellm.scheduler import prefixes
from sagellm.scheduler.instances import Instances
from sagellm.scheduler.prefix_feed import PrefixFeed
from sagellm.scheduler.prefixes import PrefixIndex
from sagellm.scheduler.prompt_hashes import PromptHashes
from sagellm_schemas import EngineState, EngineStats, InstanceInfo, InstanceStats, PackedTokens, PrefixUpdate
from sagellm_schemas.prefix import block_hashes, short_hash, short_hashes
from sagellm_schemas.prefix_updates import pack, unpack

CHAIN = list(range(100, 106))


class Index(RuleBasedStateMachine):
    """Instances say that they hold and drop blocks of one chain, come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.held: dict[str, set[int]] = {}

    names = st.sampled_from("abc")
    some = st.sets(st.sampled_from(CHAIN))

    @rule(name=names, blocks=some)
    def add(self, name: str, blocks: set[int]) -> None:
        self.index.add(name, blocks)
        self.held.setdefault(name, set()).update(blocks)

    @rule(name=names, blocks=some)
    def remove(self, name: str, blocks: set[int]) -> None:
        self.index.remove(name, blocks)
        self.held.get(name, set()).difference_update(blocks)

    @rule(name=names)
    def clear(self, name: str) -> None:
        self.index.clear(name)
        self.held.pop(name, None)

    @invariant()
    def every_instance_holds_what_it_said(self) -> None:
        levels = self.index.levels(CHAIN)
        for name in "abc":
            held = self.held.get(name, set())
            depth = next((i for i, block in enumerate(CHAIN) if block not in held), len(CHAIN))
            assert self.index.held(name, levels) == depth
        assert [depth for depth, _ in levels] == sorted({depth for depth, _ in levels})
        if levels:
            deepest = set(self.index.ids(levels[-1][1], 1, 10))
            assert {self.index.held(name, levels) for name in deepest} == {levels[-1][0]}
        assert len(self.index) == len(set().union(*self.held.values())) if self.held else True


TestIndex = Index.TestCase


def test_no_more_is_remembered_of_an_instance_than_the_limit() -> None:
    index = PrefixIndex()
    index.add("a", range(prefixes.MAX_HELD_BLOCKS + 10))
    assert len(index) == prefixes.MAX_HELD_BLOCKS
    assert index.levels([9]) == []
    assert index.levels([10]) == [(1, 1)]


@given(st.lists(st.integers(0, 200_000), max_size=70), st.integers(1, 20), st.integers(0, 8))
def test_short_hashes_are_the_first_bytes_of_those_of_the_engine(
    token_ids: list[int], block_size: int, most: int
) -> None:
    expected = [short_hash(name) for name in block_hashes(token_ids, block_size)][:most]
    assert short_hashes(token_ids, block_size, most) == expected
    assert PromptHashes().of(PackedTokens(token_ids).int32, block_size, most) == expected


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 150), st.integers(0, 9), st.integers(1, 3)), max_size=8),
    st.integers(1, 60),
)
def test_hashes_from_memory_are_the_same(prompts: list[tuple[int, int, int, int]], most: int) -> None:
    hashes = PromptHashes()
    for kind, length, end, block_size in prompts:
        prompt = [kind] * length + [end] * end
        assert hashes.of(PackedTokens(prompt).int32, block_size, most) == short_hashes(prompt, block_size, most)


@given(st.lists(st.integers(0, (1 << 64) - 1)), st.binary(max_size=7))
def test_packed_hashes_come_out_again_and_a_broken_end_is_dropped(hashes: list[int], rest: bytes) -> None:
    assert list(unpack(pack(hashes) + rest)) == hashes


class Wire:
    """A feed with two known instances, and what it asks for."""

    def __init__(self) -> None:
        self.instances = Instances()
        for name in ("a", "b"):
            info = InstanceInfo(instance_id=name, model="m")
            beat = InstanceStats(info=info, state=EngineState.READY, running={}, stats=EngineStats())
            self.instances.heard(beat, 0.0)
        self.asked: list[str] = []
        self.feed = PrefixFeed(self.instances, self.asked.append)

    def tell(
        self, name: str, number: int, *, block_size: int = 16, reset: bool = False, **blocks: set[int]
    ) -> None:
        packed = {field: pack(sorted(values)) for field, values in blocks.items()}
        self.feed.take(PrefixUpdate(instance=name, number=number, block_size=block_size, reset=reset, **packed))

    def held(self, name: str) -> set[int]:
        index = self.instances.prefixes("m")
        return {block for block in range(10) if index.held(name, index.levels([block]))}


def test_changes_add_up() -> None:
    wire = Wire()
    wire.tell("a", 1, reset=True, added={1, 2})
    wire.tell("a", 2, added={3}, removed={1})
    wire.tell("b", 5, reset=True, added={7})
    assert wire.held("a") == {2, 3}
    assert wire.held("b") == {7}
    wire.tell("a", 3, reset=True, added={9})
    assert wire.held("a") == {9}
    assert wire.asked == []


def test_after_a_gap_nothing_is_believed_until_a_full_account() -> None:
    wire = Wire()
    wire.tell("a", 1, reset=True, added={1, 2})
    wire.tell("a", 3, added={3})
    assert wire.held("a") == set()
    wire.tell("a", 4, added={4})
    assert wire.held("a") == set()
    assert wire.asked == ["a"]  # once, not for every update
    wire.tell("a", 5, reset=True, added={1, 4})
    wire.tell("a", 6, added={5})
    assert wire.held("a") == {1, 4, 5}


def test_who_was_not_heard_from_the_start_is_asked() -> None:
    wire = Wire()
    wire.tell("a", 17, added={3})
    wire.tell("stranger", 1, reset=True, added={3})
    assert wire.held("a") == set()
    assert wire.asked == ["a"]


def test_an_instance_that_goes_holds_nothing() -> None:
    wire = Wire()
    wire.tell("a", 1, reset=True, added={1})
    instance = wire.instances.get("a")
    assert instance is not None
    wire.instances.forget(instance)
    wire.feed.forget_gone()
    assert wire.held("a") == set()


def test_a_model_has_one_block_size_that_of_the_first_to_tell() -> None:
    wire = Wire()
    wire.tell("a", 1, block_size=32, reset=True, added={1})
    assert wire.instances.prefixes("m").block_size == 32
    wire.tell("b", 1, block_size=16, reset=True, added={2})
    assert wire.held("a") == {1}
    assert wire.held("b") == set()
