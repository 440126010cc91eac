"""What runs in the next step: `{sequence: number of tokens}` within a token budget. Knows no tensor.

Prefill, chunks of it, prefix hits, decode and the recomputation after a preemption are one mechanism: a sequence
has tokens that are not computed yet, and a step computes some of them.
"""

import heapq

from .block_manager import BlockManager
from .sequence import Sequence, Status

Plan = dict[Sequence, int]
"""How many tokens to compute of each sequence that takes part in a step."""


class Scheduler:
    """Keeps the waiting and the running sequences, and the blocks they hold.

    Order of service is priority, then arrival. A running sequence decodes in every step; what is left of the
    budget goes to prompts. A sequence is admitted when all its tokens fit the free blocks, so only decoding can
    run out of blocks. Then the last in order gives its blocks back and computes again later.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_chunk_tokens: int | None = None,
    ) -> None:
        self.blocks = blocks
        self.preemptions_total = 0
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self._max_chunk_tokens = max_chunk_tokens or max_batched_tokens
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []
        self._running: list[Sequence] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> list[Sequence]:
        """Every unfinished sequence."""
        return self._running + [sequence for _, sequence in self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; `arrival` must be unique among its priority."""
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def remove(self, sequence: Sequence, *, forget: bool = False) -> list[int]:
        """End a sequence, wherever it is; returns the blocks it frees. With `forget` nobody will share them."""
        freed: list[int] = []
        if sequence.status is Status.RUNNING:
            self._running.remove(sequence)
            freed = self.blocks.release(sequence, forget=forget)
        elif sequence.status is Status.WAITING:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)
        sequence.status = Status.FINISHED
        return freed

    def schedule(self) -> Plan:
        """Choose the next step's work and allocate its blocks; may preempt and admit sequences."""
        preempted_before = self.preemptions_total
        plan = self._schedule_decodes()
        budget = self._max_batched_tokens - len(plan)
        for sequence in self._running:
            if budget and sequence not in plan:
                plan[sequence] = self._chunk(sequence, budget)
                budget -= plan[sequence]
        if self.preemptions_total == preempted_before:  # what was just put off must not come back in the same step
            self._admit(plan, budget)
        return plan

    def complete(self, plan: Plan) -> None:
        """Note that the plan's tokens are computed. Call it before sampled tokens are appended."""
        for sequence, num_tokens in plan.items():
            sequence.num_computed += num_tokens
            self.blocks.commit(sequence)

    def _schedule_decodes(self) -> Plan:
        plan: Plan = {}
        for sequence in [s for s in self._running if s.num_uncomputed == 1]:
            while sequence.status is Status.RUNNING and not self.blocks.can_grow(sequence, 1):
                victim = self._running[-1]
                plan.pop(victim, None)
                self._preempt(victim)
            if sequence.status is Status.RUNNING:
                self.blocks.grow(sequence, 1)
                plan[sequence] = 1
        return plan

    def _admit(self, plan: Plan, budget: int) -> None:
        while self._waiting and budget and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0][1]
            hit_tokens = self.blocks.attach_prefix(sequence)
            if not self.blocks.can_grow(sequence, sequence.num_uncomputed):
                self.blocks.release(sequence)
                return
            heapq.heappop(self._waiting)
            self.blocks.grow(sequence, sequence.num_uncomputed)
            if sequence.num_cached is None:
                sequence.num_cached = min(hit_tokens, sequence.num_prompt)
            sequence.status = Status.RUNNING
            self._running.append(sequence)
            self._running.sort(key=lambda s: s.rank)
            plan[sequence] = self._chunk(sequence, budget)
            budget -= plan[sequence]

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        return min(sequence.num_uncomputed, budget, self._max_chunk_tokens)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self.blocks.release(sequence)
        sequence.status = Status.WAITING
        self.add(sequence)
        self.preemptions_total += 1
