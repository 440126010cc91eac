"""What runs in the next step: `{sequence: number of tokens}` within a token budget. Knows no tensor.

Prefill, chunks of it, prefix hits, decode and the recomputation after a preemption are one mechanism: a sequence
has tokens that are not computed yet, and a step computes some of them. Speculation is the same: what a decoding
sequence has drafts of is computed in the step of its latest token.
"""

import heapq

from .block_manager import BlockManager
from .pacing import Pacer, Room
from .sequence import Sequence, Status
from .speculation.drafter import Drafter, StepLoad

Plan = dict[Sequence, int]
"""How many tokens to compute of each sequence that takes part in a step, its drafts included."""


class Scheduler:
    """Keeps the waiting and the running sequences, and the blocks they hold.

    Order of service is priority, then arrival. A running sequence decodes in every step; what is left of the
    budget goes to prompts, as far as the step then ends before the next token is due of a sequence with a
    `tbt_slo_s` (`pacing`). A sequence is admitted when all its tokens fit the free blocks, so only decoding can
    run out of blocks. Then the last in order gives its blocks back and computes again later.

    Drafts take half of the budget that decodes leave at most, so prompts get on, and only blocks that nobody waits
    for.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
        max_chunk_tokens: int | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.blocks = blocks
        self.preemptions_total = 0
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self._max_chunk_tokens = max_chunk_tokens or max_batched_tokens
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []
        self._running: list[Sequence] = []
        self._pacer = Pacer()
        self._room: Room | None = None
        self._drafter = drafter
        self._load: StepLoad | None = None
        """Of the step that was scheduled last, if it has nothing but decodes."""
        self._short_of_blocks = False
        """Whether the first that waits does so for want of blocks."""

    @property
    def chunk_tokens(self) -> int:
        """How many prompt tokens a step has room for at present; 0 before there were any prompts."""
        return round(self._pacer.chunk_tokens)

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
        if self._drafter is not None:
            self._drafter.forget(sequence)
        if sequence.status is Status.RUNNING:
            self._running.remove(sequence)
            freed = self.blocks.release(sequence, forget=forget)
        elif sequence.status is Status.WAITING:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)
        sequence.status = Status.FINISHED
        return freed

    def schedule(self, now_s: float = 0.0) -> Plan:
        """Choose the next step's work and allocate its blocks; may preempt, admit, and have tokens drafted.

        `now_s` is on the clock of the sequences' `token_s`.
        """
        preempted_before = self.preemptions_total
        plan = self._schedule_decodes()
        load = self._schedule_drafts(plan, self._drafter) if plan and self._drafter is not None else None
        self._room = None
        if self._waiting or len(plan) < len(self._running) or self._pacer.curious:
            room = self._room = self._open_room(plan, now_s)
            for sequence in self._running:
                if room.full:
                    break
                if sequence not in plan:
                    self._give_chunk(sequence, plan, room)
            if self.preemptions_total == preempted_before:  # what was just put off must not come back at once
                self._admit(plan, room)
        self._load = load if load is not None and load.decodes == len(plan) else None
        return plan

    def took(self, duration_s: float) -> None:
        """Learn how long the step that was scheduled last has taken, from `schedule` on to its tokens."""
        if self._room is not None and self._room.tokens:
            self._pacer.took(self._room, duration_s)
        if self._drafter is not None and self._load is not None:
            self._drafter.took(self._load, duration_s)

    def complete(self, plan: Plan) -> None:
        """Note that the plan's tokens are computed, but for drafts that were wrong.

        Call it when the new tokens have been appended: what was computed beyond them, where a sampled token's own
        keys and values will be, is overwritten.
        """
        for sequence, num_tokens in plan.items():
            before = sequence.num_computed
            sequence.num_computed = min(before + num_tokens, len(sequence.token_ids) - 1)
            self.blocks.commit(sequence)
            if sequence.drafts:
                assert self._drafter is not None, "somebody has made the drafts"
                self._drafter.judged(sequence, max(0, sequence.num_computed - before - 1))
                sequence.drafts = []
                self.blocks.shrink(sequence, 1)

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

    def _schedule_drafts(self, plan: Plan, drafter: Drafter) -> StepLoad:
        """Add drafts to a plan of decodes."""
        kv_tokens = sum(sequence.num_computed + 1 for sequence in plan)
        wanted = {} if self._waiting and self._short_of_blocks else drafter.wanted(plan)
        left = (self._max_batched_tokens - len(plan)) // 2
        room: dict[Sequence, int] = {}
        for sequence, most in wanted.items():
            if count := min(most, left, self.blocks.room(sequence) - 1):
                self.blocks.grow(sequence, 1 + count)
                room[sequence] = count
                left -= count
        decodes, drafts = len(plan), 0
        proposals = drafter.propose(room) if room else {}
        for sequence in room:
            sequence.drafts = proposals.get(sequence, [])
            plan[sequence] += len(sequence.drafts)
            drafts += len(sequence.drafts)
            self.blocks.shrink(sequence, plan[sequence])
        return StepLoad(decodes, kv_tokens, drafts)

    def _open_room(self, plan: Plan, now_s: float) -> Room:
        slacks_s = (
            sequence.tbt_slo_s - (now_s - sequence.token_s)
            for sequence in plan
            if sequence.tbt_slo_s is not None and sequence.token_s is not None
        )
        kv_tokens = sum(sequence.num_computed + num_tokens for sequence, num_tokens in plan.items())
        return self._pacer.room(self._max_batched_tokens, sum(plan.values()), kv_tokens, slacks_s)

    def _admit(self, plan: Plan, room: Room) -> None:
        while self._waiting and not room.full and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0][1]
            hit_tokens = self.blocks.attach_prefix(sequence)
            if not self.blocks.can_grow(sequence, sequence.num_uncomputed):
                self.blocks.release(sequence)
                self._short_of_blocks = True
                return
            self._short_of_blocks = False
            heapq.heappop(self._waiting)
            self.blocks.grow(sequence, sequence.num_uncomputed)
            if sequence.num_cached is None:
                sequence.num_cached = min(hit_tokens, sequence.num_prompt)
            sequence.status = Status.RUNNING
            self._running.append(sequence)
            self._running.sort(key=lambda s: s.rank)
            self._give_chunk(sequence, plan, room)

    def _give_chunk(self, sequence: Sequence, plan: Plan, room: Room) -> None:
        wanted = min(sequence.num_uncomputed, self._max_chunk_tokens)
        if chunk := room.take(wanted, sequence.num_computed):
            plan[sequence] = chunk

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self.blocks.release(sequence)
        sequence.status = Status.WAITING
        self.add(sequence)
        self.preemptions_total += 1
        self._short_of_blocks = True
