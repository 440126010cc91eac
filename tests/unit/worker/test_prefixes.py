"""What a worker tells of its prefix cache, and the mock engine's cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.worker import prefixes
from sagellm.worker.engines.mock_prefix_cache import BLOCK_TOKENS, MockPrefixCache
from sagellm.worker.prefixes import PrefixReports
from sagellm_schemas import Codec, PrefixUpdate
from sagellm_schemas.prefix import short_hash
from sagellm_schemas.prefix_updates import unpack


def name(number: int) -> bytes:
    return number.to_bytes(16, "little")


class Wire:
    """Reports whose engine is a dictionary and whose sender is a list."""

    def __init__(self, block_size: int = 16) -> None:
        self.pending: dict[bytes, bool] = {}
        self.sent: list[PrefixUpdate] = []
        self.reports = PrefixReports("w", block_size, self.take, self)  # type: ignore[arg-type]

    def take(self) -> dict[bytes, bool]:
        pending, self.pending = self.pending, {}
        return pending

    def send(self, subject: str, payload: bytes) -> None:
        assert subject == "sagellm.v1.prefixes.w"
        self.sent.append(Codec(PrefixUpdate).decode(payload))

    def known(self) -> set[int]:
        """What somebody knows who has heard everything."""
        known: set[int] = set()
        for number, update in enumerate(self.sent, start=1):
            assert update.number == number
            if update.reset:
                known.clear()
            known -= set(unpack(update.removed))
            known |= set(unpack(update.added))
        return known


@given(st.lists(st.dictionaries(st.integers(0, 9), st.booleans()) | st.none(), max_size=12))
def test_whoever_listens_knows_what_is_cached(steps: list[dict[int, bool] | None]) -> None:
    wire = Wire()
    cached: set[int] = set()
    for step in steps:
        if step is None:
            wire.reports.account()
            continue
        wire.pending = {name(number): present for number, present in step.items()}
        wire.reports.changes()
        cached |= {number for number, present in step.items() if present}
        cached -= {number for number, present in step.items() if not present}
    assert wire.known() == cached


def test_no_news_is_not_sent() -> None:
    wire = Wire()
    wire.reports.changes()
    wire.pending = {name(1): False}
    wire.reports.changes()
    assert wire.sent == []


def test_an_engine_without_a_prefix_cache_says_nothing() -> None:
    wire = Wire(block_size=0)
    wire.pending = {name(1): True}
    wire.reports.account()
    wire.reports.changes()
    assert wire.sent == []


def test_a_large_account_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "MAX_BLOCKS", 8)
    wire = Wire()
    wire.pending = {name(number): True for number in range(10)}
    wire.reports.account()
    assert [update.reset for update in wire.sent] == [True, False, False]
    assert wire.known() == set(range(10))


def test_the_mock_finds_what_it_has_read_and_answered() -> None:
    cache = MockPrefixCache(100)
    prompt = list(range(3 * BLOCK_TOKENS + 5))
    assert cache.read(prompt) == 0
    assert cache.read(prompt) == 3 * BLOCK_TOKENS
    cache.keep(prompt + list(range(BLOCK_TOKENS)))
    grown = [*prompt, *range(BLOCK_TOKENS), 1, 2, 3]
    assert cache.read(grown) == 4 * BLOCK_TOKENS
    assert cache.read(prompt[: 2 * BLOCK_TOKENS]) == BLOCK_TOKENS  # the last token is always computed


def test_the_mock_forgets_the_ends_of_what_was_used_longest_ago() -> None:
    cache = MockPrefixCache(4)
    first, second = [1] * (3 * BLOCK_TOKENS + 1), [2] * (2 * BLOCK_TOKENS + 1)
    cache.read(first)
    cache.read(second)
    assert sum(cache.take_changes().values()) == 4
    assert cache.read(first[: BLOCK_TOKENS + 1]) == BLOCK_TOKENS
    assert cache.read(first[: 3 * BLOCK_TOKENS + 1]) == 2 * BLOCK_TOKENS


def test_the_changes_of_the_mock_add_up_to_what_it_holds() -> None:
    cache, wire = MockPrefixCache(5), Wire()
    for number in range(20):
        cache.read([number % 7] * (BLOCK_TOKENS * (number % 4) + 1))
        wire.pending = cache.take_changes()
        wire.reports.changes()
    assert wire.known() == {short_hash(block) for block in cache._blocks}
