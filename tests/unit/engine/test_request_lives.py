"""After ten thousand random lives of requests no KV block is lost, and none ever held what it should not."""

import random
from collections import Counter

from sagellm_engine.block_manager import BlockManager
from sagellm_engine.scheduler import Plan, Scheduler
from sagellm_engine.sequence import Sequence, Status
from sagellm_schemas import SamplingParams

from .guessing import Guesses

LIVES = 10_000
BLOCK, BLOCKS, SEATS, BUDGET = 4, 26, 6, 24
VOCABULARY = 5
MOST_PROMPT, MOST_OUTPUT = 24, 20


class Model:
    """Says a token that depends on all before it, and checks that these are what its KV cache holds.

    A cell of the cache has the digest of all tokens up to its own, as keys and values depend on them.
    """

    def __init__(self) -> None:
        self._cells = [[0] * BLOCK for _ in range(BLOCKS)]

    def run(self, plan: Plan) -> dict[Sequence, list[int]]:
        """The new tokens of each sequence that has no more left to compute."""
        said: dict[Sequence, list[int]] = {}
        for sequence, count in plan.items():
            tokens = sequence.token_ids + sequence.drafts
            end = sequence.num_computed + count
            chain = digests(tokens[:end])
            for at, digest in enumerate(chain):
                cells, place = self._cells[sequence.blocks[at // BLOCK]], at % BLOCK
                if at >= sequence.num_computed:
                    cells[place] = digest
                assert cells[place] == digest, f"{sequence.id} reads keys and values of other tokens"
            if end == len(tokens):
                said[sequence] = self._accepted(sequence, chain)
        return said

    def _accepted(self, sequence: Sequence, chain: list[int]) -> list[int]:
        drawn = [digest % VOCABULARY for digest in chain[len(sequence.token_ids) - 1 :]]
        right = next((i for i, draft in enumerate(sequence.drafts) if draft != drawn[i]), len(sequence.drafts))
        return drawn[: right + 1]


def digests(tokens: list[int]) -> list[int]:
    """Of the tokens up to each one."""
    chain, digest = [], 1
    for token in tokens:
        digest = hash((digest, token))
        chain.append(digest)
    return chain


def answer_to(prompt: list[int]) -> list[int]:
    """What the model says in the end, however it comes to it."""
    tokens = list(prompt)
    digest = digests(tokens)[-1]
    for _ in range(MOST_OUTPUT):
        tokens.append(digest % VOCABULARY)
        digest = hash((digest, tokens[-1]))
    return tokens[len(prompt) :]


class Lives:
    """Requests that come, and end in one way or another."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answers: dict[str, list[int]] = {}
        self.guesses = Guesses(self.answers, vocabulary=VOCABULARY, seed=seed)
        self.blocks = BlockManager(BLOCKS, BLOCK)
        self.scheduler = Scheduler(
            self.blocks, max_num_seqs=SEATS, max_batched_tokens=BUDGET, drafter=self.guesses
        )
        self.model = Model()
        self.ended: Counter[str] = Counter()
        self.hits = self.begun = 0
        self._beginnings = [self._tokens(MOST_PROMPT - 4) for _ in range(12)]

    def arrive(self) -> None:
        beginning = self.random.choice(self._beginnings)
        prompt = beginning[: self.random.randint(0, len(beginning))] + self._tokens(self.random.randint(1, 4))
        sequence = Sequence(
            str(self.begun),
            prompt,
            SamplingParams(),
            max_tokens=self.random.randint(1, MOST_OUTPUT),
            priority=self.random.choice([1, 2, 2, 3]),
            arrival=self.begun,
        )
        self.answers[sequence.id] = answer_to(prompt)
        self.begun += 1
        self.scheduler.add(sequence)

    def step(self) -> None:
        """One engine step, in which anything may end."""
        plan = self.scheduler.schedule()
        assert plan or not self.scheduler.sequences, "a step with work must do some"
        assert sum(plan.values()) <= BUDGET
        said = self.model.run(plan)
        for sequence, tokens in said.items():
            sequence.token_ids += tokens[: sequence.max_tokens - sequence.num_output]
            assert sequence.output_token_ids == self.answers[sequence.id][: sequence.num_output]
        self.scheduler.complete(plan)
        for sequence in said:
            if self.random.random() < 0.01:
                self._end(sequence, "failed")
            elif sequence.num_output == sequence.max_tokens:
                self._end(sequence, "finished")
        for sequence in self.scheduler.sequences:
            if self.random.random() < 0.005:
                self._end(sequence, f"aborted while {sequence.status.name}")

    def _end(self, sequence: Sequence, how: str) -> None:
        self.hits += bool(sequence.num_cached)
        self.scheduler.remove(sequence, forget=how == "failed")
        assert sequence.status is Status.FINISHED
        assert not sequence.blocks
        del self.answers[sequence.id]
        self.ended[how] += 1

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(VOCABULARY) for _ in range(count)]


def test_no_block_is_leaked_in_ten_thousand_lives() -> None:
    lives = Lives(seed=4)
    steps = 0
    while lives.begun < LIVES or lives.scheduler.sequences:
        burst = lives.random.choice([0, 0, 0, 1] if steps // 100 % 2 else [0, 1, 4])  # calm and busy in turn
        for _ in range(min(burst, LIVES - lives.begun, 6 - lives.scheduler.num_waiting)):
            lives.arrive()
        lives.step()
        steps += 1
        if steps % 8 == 0:
            lives.blocks.check_integrity(lives.scheduler.sequences)
    lives.blocks.check_integrity([])
    assert lives.blocks.num_free == BLOCKS
    assert not lives.guesses.known
    assert lives.ended.total() == LIVES
    assert min(lives.ended.values()) > 100, "every way to end is often taken"
    assert set(lives.ended) == {"finished", "failed", "aborted while RUNNING", "aborted while WAITING"}
    assert lives.scheduler.preemptions_total > 500
    assert lives.hits > 1000
    assert 5000 < lives.guesses.accepted < lives.guesses.drafted
