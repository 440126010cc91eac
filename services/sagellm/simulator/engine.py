"""A simulated instance: continuous batching with chunked prefill, as the engine's own scheduler does it.

Every running sequence decodes in every step; what is left of the budget goes to prompts, in the order of priority
and arrival, as far as the next tokens of paced jobs are not late for it. The object that decides that is the
engine's own (`sagellm_engine.pacing`); it learns what steps take from the steps. A sequence is admitted when all
its tokens fit the free KV blocks; when decoding runs out of blocks, the last in order gives its own back and
computes again later.

Steps in which only decoding goes on are planned as one run, up to the next end of an answer; work that comes
meanwhile cuts the run at the end of the step it falls into. So the cost is per event, not per token.
"""

import heapq
from array import array
from bisect import bisect_left
from collections import Counter
from math import inf

from sagellm_engine.pacing import Pacer, Room
from sagellm_schemas import EngineStats

from .cost import StepClock
from .job import End, Job
from .kv import KvCache

STEP_MS_WEIGHT = 0.05
"""As the live engines average the duration of their steps."""


class SimulatedEngine:
    """Jobs in, tokens and endings out. All times are seconds since the simulation's start.

    `boundary_s` is when `complete` must be called: infinite while there is nothing to do.
    """

    def __init__(
        self,
        clock: StepClock,
        kv: KvCache,
        *,
        max_num_seqs: int,
        max_batched_tokens: int,
    ) -> None:
        self.kv = kv
        self.boundary_s = inf
        self.busy_s = 0.0
        self._clock = clock
        self._max_num_seqs = max_num_seqs
        self._max_batched_tokens = max_batched_tokens
        self._waiting: list[tuple[tuple[int, int], Job]] = []
        self._prefilling: list[Job] = []
        self._chunks: list[int] = []
        self._decoding: dict[Job, None] = {}
        self._kv_tokens = 0
        """Computed tokens of all that decode."""
        self._phases = [0] * kv.block_size
        """How many that decode need a new block in the step whose index is congruent to minus the place."""
        self._finishes: list[tuple[int, int, Job]] = []
        self._tbt_slos_s: Counter[float] = Counter()
        """Of all that decode."""
        self._pacer = Pacer()
        self._room: Room | None = None
        """Of the first step of the present run."""
        self._leased: set[Job] = set()
        self._ends_s = array("d")
        """When each step so far ended."""
        self._planned_s: list[float] = []
        """When each step of the present run ends."""
        self._began_s = 0.0
        self._arrivals = 0
        self._step_ms = 0.0
        self._prompt_tokens = self._cached_tokens = self._output_tokens = self._preemptions = 0
        self._computed_tokens = 0

    @property
    def jobs(self) -> list[Job]:
        """Every job that has not ended."""
        return [*self._decoding, *self._prefilling, *(job for _, job in self._waiting)]

    def fits(self, job: Job) -> bool:
        """Whether the KV cache could ever hold it to its end."""
        return self.kv.blocks(job.input_tokens + job.output_tokens) <= self.kv.num_blocks

    def add(self, job: Job, now_s: float) -> None:
        """Take in a job that `fits`. It takes part from the next step on; call `begin` when all are in."""
        job.arrival = self._arrivals
        self._arrivals += 1
        heapq.heappush(self._waiting, (job.rank, job))
        if self._planned_s:
            self._cut(now_s)

    def begin(self, now_s: float) -> None:
        """Begin a step if none is under way and there is work."""
        if self._planned_s:
            return
        preempted = self._make_room()
        # What was just put off must not come back in the same step, unless it was all there is.
        admit = not preempted or not (self._decoding or self._prefilling)
        room = self._schedule(now_s, admit=admit)
        decoding = len(self._decoding)
        if not decoding and not self._chunks:
            self.boundary_s = inf
            return
        self._began_s, self._room = now_s, room
        if self._chunks:
            done = sum(
                n == job.context - job.computed for job, n in zip(self._prefilling, self._chunks, strict=False)
            )
            lasts_s = self._clock.step_s(room.tokens, decoding + done, room.kv_tokens, room.pairs)
            self._planned_s = [now_s + lasts_s]
        else:
            self._plan_run(now_s, 1 if preempted else self._finishes[0][0] - len(self._ends_s))
        self.boundary_s = self._planned_s[-1]

    def complete(self) -> list[tuple[Job, End]]:
        """The run is over: what ended with it, or had its prompt computed. Begins nothing new."""
        steps = len(self._planned_s)
        self._take_decode_blocks(steps)
        self._kv_tokens += steps * len(self._decoding)
        self._output_tokens += steps * len(self._decoding)
        self._computed_tokens += steps * len(self._decoding) + sum(self._chunks)
        self._ends_s.extend(self._planned_s)
        now_s = self._planned_s[-1]
        self._note_duration(steps, now_s)
        assert self._room is not None, "what ends has begun"
        self._pacer.took(self._room, self._planned_s[0] - self._began_s)
        self._planned_s = []
        self.boundary_s = inf
        ended: list[tuple[Job, End]] = []
        while self._finishes and self._finishes[0][0] == len(self._ends_s):
            job = heapq.heappop(self._finishes)[2]
            self._stop_decoding(job)
            self._release(job)
            ended.append((job, "finished"))
        ended.extend(self._complete_chunks(now_s))
        return ended

    def generated(self, job: Job) -> int:
        """Tokens of its answer up to the latest run that is complete."""
        return job.generated + (len(self._ends_s) - job.first_step if job in self._decoding else 0)

    def free(self, job: Job) -> None:
        """The KV of a job that was handed over is not needed any more."""
        self._leased.remove(job)
        self.kv.release(job.holding)

    def remove(self, job: Job) -> bool:
        """Take a job out between two steps, with the tokens it has; False if it is not here (any more)."""
        if job in self._decoding:
            self._stop_decoding(job)
        elif job in self._prefilling:
            self._prefilling.remove(job)
        elif any(job is other for _, other in self._waiting):
            self._waiting = [entry for entry in self._waiting if entry[1] is not job]
            heapq.heapify(self._waiting)
        else:
            return False
        self._release(job)
        return True

    def stats(self) -> EngineStats:
        """What a heartbeat would tell."""
        running = len(self._decoding) + len(self._prefilling)
        return EngineStats(
            running=running,
            waiting=len(self._waiting),
            kv_blocks=self.kv.num_blocks,
            kv_blocks_free=self.kv.num_free,
            steps_total=len(self._ends_s),
            step_ms=self._step_ms,
            step_ms_total=self.busy_s * 1000,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            output_tokens_total=self._output_tokens,
            preemptions_total=self._preemptions,
            chunk_tokens=round(self._pacer.chunk_tokens),
            computed_tokens_total=self._computed_tokens,
        )

    def check_integrity(self) -> None:
        """Assert that the books agree with one another; between two steps only."""
        for job in self._decoding:
            self._settle(job)
        holders = [*self._decoding, *self._prefilling, *self._leased]
        self.kv.check_integrity([job.holding for job in holders])
        assert self._kv_tokens == sum(job.computed for job in self._decoding), "KV tokens are miscounted"
        assert sum(self._phases) == len(self._decoding), "phases are miscounted"
        assert all(not len(job.holding) for _, job in self._waiting), "a waiting job holds blocks"

    def _make_room(self) -> bool:
        """Take the blocks of the next step's decodes, in the order of service, and preempt from its end as far as
        they are short; whether that was necessary."""
        size, step = self.kv.block_size, len(self._ends_s)
        lacking = self._phases[-step % size]
        preempted = False
        while True:
            granted = min(lacking, self.kv.num_free)
            self.kv.take(granted)
            lacking -= granted
            if not lacking:
                return preempted
            victim = max((*self._decoding, *self._prefilling), key=lambda job: job.rank)
            if victim in self._decoding:
                self._stop_decoding(victim)
                lacking -= victim.computed % size == 0
            else:
                self._prefilling.remove(victim)
            victim.named = True  # it finds again what is not overwritten
            self._release(victim)
            victim.preemptions += 1
            self._preemptions += 1
            heapq.heappush(self._waiting, (victim.rank, victim))
            preempted = True

    def _schedule(self, now_s: float, *, admit: bool) -> Room:
        """Fill the step."""
        self._chunks = []
        decoding = len(self._decoding)
        slacks_s = list(self._tbt_slos_s)  # everyone that decodes had a token just now
        kv_tokens = self._kv_tokens + decoding
        # Who lacks one token only counts as decoding, and decodes come first.
        self._prefilling.sort(key=lambda job: (job.context - job.computed > 1, job.rank))
        for job in self._prefilling:
            if job.context - job.computed > 1:
                break
            self._chunks.append(1)
            kv_tokens += job.computed + 1
            if job.tbt_slo_s is not None and job.token_times_s:
                slacks_s.append(job.tbt_slo_s - (now_s - job.token_times_s[-1]))
        decodes = decoding + len(self._chunks)
        room = self._pacer.room(self._max_batched_tokens, decodes, kv_tokens, slacks_s)
        while not room.full:
            if len(self._chunks) == len(self._prefilling):
                decoding = len(self._decoding)
                if not (admit and self._waiting and self._admit()):
                    break
                if len(self._decoding) > decoding:
                    room.decode(next(reversed(self._decoding)).computed)
                    continue
            job = self._prefilling[len(self._chunks)]
            if chunk := room.take(job.context - job.computed, job.computed):
                self._chunks.append(chunk)
        return room

    def _admit(self) -> bool:
        """Let the first that waits run, if there is room."""
        if len(self._decoding) + len(self._prefilling) >= self._max_num_seqs:
            return False
        job = self._waiting[0][1]
        received = job.computed
        # The last token is always left to compute, since its logits are needed.
        hits = self.kv.hits(job.hashes, (job.context - 1) // self.kv.block_size)
        blocks = self.kv.blocks(job.context)
        if not self.kv.can_hold(job.hashes, hits, blocks):
            self.kv.touch(job.hashes[:hits])
            return False
        heapq.heappop(self._waiting)
        self.kv.share(job.holding, job.hashes[:hits])
        self.kv.take(blocks - hits)
        job.holding.private = blocks - hits
        job.computed = max(received, hits * self.kv.block_size)
        if job.cached_tokens is None:
            job.cached_tokens = min(job.computed, job.input_tokens)
            self._prompt_tokens += job.input_tokens
            self._cached_tokens += job.cached_tokens
        if received and job.computed == job.context - 1:
            self._start_decoding(job)
        else:
            self._prefilling.append(job)
        return True

    def _complete_chunks(self, now_s: float) -> list[tuple[Job, End]]:
        ended: list[tuple[Job, End]] = []
        finished: list[Job] = []
        for job, chunk in zip(self._prefilling, self._chunks, strict=False):
            job.computed += chunk
            self.kv.commit(job.holding, job.hashes, job.computed // self.kv.block_size)
            if job.computed < job.context:
                continue
            finished.append(job)
            job.generated += 1
            job.token_times_s.append(now_s)
            self._output_tokens += 1
            if job.generated >= job.output_tokens:
                self._release(job)
                ended.append((job, "finished"))
            elif job.hands_over:
                self._leased.add(job)
                ended.append((job, "handed_over"))
            else:
                self._start_decoding(job)
                ended.append((job, "started"))
        for job in finished:
            self._prefilling.remove(job)
        self._chunks = []
        return ended

    def _start_decoding(self, job: Job) -> None:
        step = len(self._ends_s)
        job.first_step = step
        job.finish_step = step + job.output_tokens - job.generated
        self._decoding[job] = None
        self._kv_tokens += job.computed
        if job.tbt_slo_s is not None:
            self._tbt_slos_s[job.tbt_slo_s] += 1
        self._phases[(job.computed - step) % self.kv.block_size] += 1
        heapq.heappush(self._finishes, (job.finish_step, job.arrival, job))

    def _stop_decoding(self, job: Job) -> None:
        self._settle(job)
        step = len(self._ends_s)
        del self._decoding[job]
        self._kv_tokens -= job.computed
        if job.tbt_slo_s is not None:
            self._tbt_slos_s[job.tbt_slo_s] -= 1
            if not self._tbt_slos_s[job.tbt_slo_s]:
                del self._tbt_slos_s[job.tbt_slo_s]
        self._phases[(job.computed - step) % self.kv.block_size] -= 1
        if job.finish_step != step:
            self._finishes = [entry for entry in self._finishes if entry[2] is not job]
            heapq.heapify(self._finishes)

    def _settle(self, job: Job) -> None:
        """Bring the record of a decoding job up to date."""
        step = len(self._ends_s)
        job.token_times_s.extend(self._ends_s[job.first_step : step])
        job.generated += step - job.first_step
        job.computed += step - job.first_step
        job.first_step = step
        job.holding.private = self.kv.blocks(job.computed) - len(job.holding.shared)

    def _release(self, job: Job) -> None:
        if job.named:
            job.name_blocks(job.computed // self.kv.block_size)
        self.kv.commit(job.holding, job.hashes, job.computed // self.kv.block_size)
        self.kv.release(job.holding)
        job.computed = 0

    def _plan_run(self, now_s: float, steps: int) -> None:
        """Plan up to `steps` steps of decoding alone, as far as there are blocks."""
        decoding, size = len(self._decoding), self.kv.block_size
        if decoding * (steps // size + 1) > self.kv.num_free:
            steps = self._steps_with_room(steps)
        base_s = self._clock.step_s(decoding, decoding, self._kv_tokens + decoding, 0.0)
        growth_s = decoding * self._clock.kv_read_s
        ends = []
        for _ in range(steps):
            now_s += base_s
            ends.append(now_s)
            base_s += growth_s
        self._planned_s = ends

    def _steps_with_room(self, steps: int) -> int:
        free, step = self.kv.num_free, len(self._ends_s)
        for count in range(1, steps):
            free -= self._phases[-(step + count) % self.kv.block_size]
            if free < 0:
                return count
        return steps

    def _take_decode_blocks(self, steps: int) -> None:
        """For a run of so many steps, but for its first, whose blocks were taken when it began."""
        size, step = self.kv.block_size, len(self._ends_s)
        cycles, rest = divmod(steps - 1, size)
        crossing = sum(self._phases[-(step + count) % size] for count in range(1, rest + 1))
        self.kv.take(cycles * len(self._decoding) + crossing)

    def _cut(self, now_s: float) -> None:
        """Work has come: let the run end with the step that is under way at `now_s`."""
        under_way = bisect_left(self._planned_s, now_s)
        del self._planned_s[under_way + 1 :]
        self.boundary_s = self._planned_s[-1]

    def _note_duration(self, steps: int, now_s: float) -> None:
        took_s = now_s - self._began_s
        self.busy_s += took_s
        weight = 1 - (1 - STEP_MS_WEIGHT) ** steps
        self._step_ms += weight * (took_s / steps * 1000 - self._step_ms)
