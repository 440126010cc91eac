"""Tokens are drafted where that makes answers faster, and nowhere else."""

import random
from collections.abc import Callable

import pytest

from sagellm_engine.sequence import Sequence
from sagellm_engine.speculation import Outlook, Speculator, StepLoad
from sagellm_engine.speculation.chances import Chances
from sagellm_engine.speculation.worth import GROWTH, expected, paying
from sagellm_schemas import SamplingParams, SpeculationStats

Cost = Callable[[int, int], float]
"""Seconds of a step with so many decodes and so many drafts."""


def sequence_of(number: int = 0, max_tokens: int = 10**9) -> Sequence:
    return Sequence(str(number), [1], SamplingParams(), max_tokens=max_tokens)


class Coins:
    """Proposes tokens that are right by chance; `kind` tells the good ones from the bad."""

    def __init__(self, chance: float) -> None:
        self.chance = chance
        self.broken = False

    def look(self, sequence: Sequence, most: int) -> Outlook | None:
        return Outlook(most, kind=1, first_chance=0.4)

    def propose(self, room: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        if self.broken:
            raise RuntimeError("out of coins")
        return {s: [0] * count for s, count in room.items()}

    def forget(self, sequence: Sequence) -> None:
        pass


class Bench:
    """Steps of sequences that decode, on a machine with a given cost."""

    def __init__(
        self, cost: Cost, chance: float, *, most: int = 10, sequences: int = 1, noise: float = 0.03
    ) -> None:
        self.coins = Coins(chance)
        self.speculator = Speculator(self.coins, most, clock=lambda: 0.0)
        self.sequences = [sequence_of(i) for i in range(sequences)]
        self.cost, self.noise = cost, noise
        self.random = random.Random(5)
        self.spent_s = 0.0
        self.tokens = 0

    @property
    def drafted_total(self) -> int:
        return self.speculator.stats().drafted_tokens_total

    def run(self, steps: int) -> float:
        """Tokens a second of these steps, compared with the same machine without speculation."""
        tokens, spent_s = self.tokens, self.spent_s
        for _ in range(steps):
            self._step()
        rate = (self.tokens - tokens) / (self.spent_s - spent_s)
        return rate / (len(self.sequences) / self.cost(len(self.sequences), 0))

    def _step(self) -> None:
        room = self.speculator.wanted(self.sequences)
        drafts = self.speculator.propose(room) if room else {}
        for sequence, guesses in drafts.items():
            sequence.drafts = guesses
            right = 0
            while right < len(guesses) and self.random.random() < self.coins.chance:
                right += 1
            self.speculator.judged(sequence, right)
            self.tokens += right
        count = sum(map(len, drafts.values()))
        took_s = self.cost(len(self.sequences), count)
        self.tokens += len(self.sequences)
        self.spent_s += took_s
        measured_s = took_s * self.random.gauss(1.0, self.noise)
        self.speculator.took(StepLoad(len(self.sequences), 100, count), measured_s)


def cheap_rows(decodes: int, drafts: int) -> float:
    return 0.014 + 0.0001 * (decodes + drafts)


def dear_rows(decodes: int, drafts: int) -> float:
    return 0.001 + 0.001 * (decodes + drafts)


def dear_at_all(decodes: int, drafts: int) -> float:
    return 0.01 + 0.0001 * drafts + (0.01 if drafts else 0.0)


def test_guesses_that_are_mostly_right_pay_where_rows_are_cheap() -> None:
    assert Bench(cheap_rows, 0.9).run(500) > 4


@pytest.mark.parametrize("cost", [cheap_rows, dear_rows, dear_at_all])
@pytest.mark.parametrize("chance", [0.0, 0.02, 0.1, 0.3])
def test_guesses_that_are_mostly_wrong_cost_next_to_nothing(cost: Cost, chance: float) -> None:
    bench = Bench(cost, chance)
    assert bench.run(128) > 0.93, "while it learns"
    assert bench.run(1000) > 0.98


def test_nothing_is_drafted_at_a_high_batch_where_every_row_costs_its_time() -> None:
    bench = Bench(dear_rows, 0.8, sequences=32)
    bench.run(200)
    drafted = bench.drafted_total
    assert bench.run(500) > 0.99
    assert bench.drafted_total - drafted < 50, "but for a few, to see whether things have changed"


def test_the_same_guesses_pay_again_when_the_batch_is_small() -> None:
    bench = Bench(lambda n, d: max(0.014, 0.0005 * (n + d)), 0.8, sequences=48)
    bench.run(300)
    del bench.sequences[1:]
    bench.run(150)
    assert bench.run(300) > 2


def test_a_text_that_begins_to_repeat_is_noticed() -> None:
    bench = Bench(cheap_rows, 0.01)
    bench.run(1000)
    bench.coins.chance = 0.95
    bench.run(150)
    assert bench.run(300) > 3


def test_a_machine_on_which_drafts_have_become_cheap_is_noticed() -> None:
    bench = Bench(dear_at_all, 0.45)
    bench.run(500)
    bench.cost = cheap_rows
    bench.run(1000)
    assert bench.run(300) > 1.3


def test_no_step_has_many_more_drafts_than_any_before() -> None:
    bench = Bench(cheap_rows, 0.95, sequences=60, most=8)
    most, counts = 0, []
    for _ in range(20):
        before = bench.drafted_total
        bench.run(1)
        counts.append(bench.drafted_total - before)
    for count in counts:
        assert count <= max(16, GROWTH * most)
        most = max(most, count)
    assert most > 200


def test_no_more_is_drafted_than_an_answer_may_still_have() -> None:
    speculator = Speculator(Coins(1.0), 10, clock=lambda: 0.0)
    short, over = sequence_of(0, max_tokens=4), sequence_of(1, max_tokens=1)
    for _ in range(3):
        speculator.took(StepLoad(2, 10, 0), 0.01)
    assert speculator.wanted([short, over]) == {short: 3}


def test_an_error_of_the_proposer_ends_speculation_and_nothing_else() -> None:
    bench = Bench(cheap_rows, 0.9)
    bench.run(50)
    bench.coins.broken = True
    bench.run(50)
    drafted = bench.drafted_total
    bench.coins.broken = False
    assert bench.run(200) == pytest.approx(1.0)
    assert bench.drafted_total == drafted


def test_totals_count_tokens() -> None:
    bench = Bench(cheap_rows, 1.0)
    bench.run(100)
    assert bench.speculator.stats() == SpeculationStats(
        drafted_tokens_total=bench.tokens - 100, accepted_tokens_total=bench.tokens - 100
    )
    assert bench.speculator.stats().acceptance_rate == 1


def test_a_sequence_is_judged_by_its_own_guesses_and_a_new_one_by_those_of_all() -> None:
    chances, good, bad, new = Chances(), sequence_of(0), sequence_of(1), sequence_of(2)
    outlook = Outlook(5, kind=4, first_chance=0.3)
    assert chances.chance(new, outlook, 0) == 0.3
    for step in range(30):
        chances.judged(good, 4, step, 5, 5)
        chances.judged(bad, 4, step, 5, 0)
    assert chances.chance(good, outlook, 30) > 0.9
    assert chances.chance(bad, outlook, 30) < 0.4
    assert 0.4 < chances.chance(new, outlook, 30) < 0.95
    assert chances.chance(new, Outlook(5, kind=3, first_chance=0.3), 30) == 0.3
    assert chances.chance(bad, outlook, 400) == pytest.approx(chances.chance(new, outlook, 400), abs=0.05)
    chances.forget(bad)
    assert chances.chance(bad, outlook, 30) == chances.chance(new, outlook, 30)


@pytest.mark.parametrize(
    ("chance", "cost", "count"),
    [(0.9, 0.5, 6), (0.9, 0.05, 10), (0.3, 0.5, 0), (1.0, 0.5, 10), (0.5, 0.0, 10), (0.0, 0.1, 0), (0.9, 1.0, 0)],
)
def test_a_draft_pays_while_the_chance_that_it_counts_is_above_its_cost(
    chance: float, cost: float, count: int
) -> None:
    assert paying(chance, cost, 10) == count


def test_how_many_drafts_are_right() -> None:
    assert expected(0.5, 2) == pytest.approx(0.75)
    assert expected(1.0, 7) == 7
