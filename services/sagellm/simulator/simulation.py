"""A run of a trace through the scheduler's own objects and simulated instances."""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from sagellm.scheduler.matching import Refusal
from sagellm.scheduler.metrics.slo import on_time
from sagellm.scheduler.pd import PdPolicy
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.policies.fair import service_tokens
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router
from sagellm_schemas import InferenceRequest, RequestStatus, SamplingParams, Tariff
from sagellm_schemas.prefix import block_hashes, short_hash

from .cluster import MODEL, Cluster, ClusterPlan
from .fairness import ServiceGap
from .job import Job
from .outcome import Outcome
from .scheduling import SimulatedScheduler
from .traces import TraceRequest

EPOCH_S = 1_700_000_000.0
"""The Unix time at which every simulation begins: the policies' clock is Unix time."""
HEARTBEAT_S = 0.25
ID_GAP = 1 << 17
"""Distance between the made-up token ids of two requests."""


@dataclass(slots=True)
class _Live:
    """A request that has arrived and not ended."""

    trace: TraceRequest
    tracked: TrackedRequest
    job: Job
    arrived_s: float
    wait_s: float = 0.0
    group: str = ""
    tariff: Tariff | None = None


class Simulation:
    """One run; `run` it once.

    Arrivals are `TraceRequest.arrival_s / rate_scale`. `progress` is told the number of requests that have ended.
    With `most_missed` the run stops when more than so many have missed an SLO; what is left counts as unfinished.
    """

    def __init__(
        self,
        requests: Sequence[TraceRequest],
        plan: ClusterPlan,
        policy: Policy,
        router: Router,
        pd_policy: PdPolicy,
        rate_scale: float = 1.0,
        progress: Callable[[int], None] | None = None,
        most_missed: int | None = None,
    ) -> None:
        self._requests = requests
        self.plan = plan
        self._rate_scale = rate_scale
        self._progress = progress
        self._may_miss = inf if most_missed is None else most_missed
        self.cluster = Cluster(plan)
        self._scheduler = SimulatedScheduler(
            policy, router, pd_policy, self.cluster.known, MODEL, plan.transfer_s_per_token
        )
        self._boundaries: list[tuple[float, str]] = []
        self._transfers: list[tuple[float, int, _Live, str]] = []
        """KV on its way: when it arrives, an order among equals, whose, and from where."""
        self._handed_over: deque[tuple[_Live, str]] = deque()
        """Requests whose prompt is computed, and where; they wait for an instance to decode at."""
        self._live: dict[str, _Live] = {}
        self.outcomes: list[Outcome] = []
        self.now_s = 0.0
        self.gap = ServiceGap({request.user for request in requests})
        self._served: dict[str, float] = {}

    def run(self) -> list[Outcome]:
        """Every request's outcome, in the order in which they ended."""
        arrived = 0
        next_beat_s = 0.0
        while self._may_miss >= 0:
            arrival_s = self._arrival_s(arrived)
            now_s = min(
                arrival_s,
                self._boundaries[0][0] if self._boundaries else inf,
                self._transfers[0][0] if self._transfers else inf,
            )
            if now_s == inf:
                break
            if next_beat_s <= now_s:
                now_s = next_beat_s
                self._beat(now_s)
                next_beat_s += HEARTBEAT_S
            self.now_s = now_s
            self._complete_steps(now_s)
            self._complete_transfers(now_s)
            while self._arrival_s(arrived) <= now_s:
                self._arrive(arrived, now_s)
                arrived += 1
            self._dispatch(now_s)
        if self._may_miss >= 0:
            assert not self._live, "requests are left over"
        left = [live.trace for live in self._live.values()] + list(self._requests[arrived:])
        self.outcomes.extend(Outcome(request=request, status="unfinished") for request in left)
        return self.outcomes

    def _arrival_s(self, number: int) -> float:
        return self._requests[number].arrival_s / self._rate_scale if number < len(self._requests) else inf

    def _beat(self, now_s: float) -> None:
        """Every instance tells how it is, and what its prefix cache holds."""
        self._scheduler.heard(self.cluster.heartbeats(), EPOCH_S + now_s)
        if self.gap.measures:
            self._measure_gap()
        index = self.cluster.known.prefixes(MODEL)
        for id_, engine in self.cluster.engines.items():
            came, went = engine.kv.news()
            index.remove(id_, map(short_hash, went))
            index.add(id_, map(short_hash, came))

    def _measure_gap(self) -> None:
        service: dict[str, float] = dict(self._served)
        waiting: set[str] = set()
        for live in self._live.values():
            user = live.trace.user
            if live.tracked.status is RequestStatus.QUEUED:
                waiting.add(user)
            else:
                written = self.cluster.engines[live.tracked.instance].generated(live.job)
                service[user] = service.get(user, 0.0) + service_tokens(live.trace.input_tokens, written)
        self.gap.sample(service, waiting)

    def _complete_steps(self, now_s: float) -> None:
        """End the steps that end now, and begin the next ones."""
        while self._boundaries and self._boundaries[0][0] <= now_s:
            boundary_s, id_ = heapq.heappop(self._boundaries)
            engine = self.cluster.engines[id_]
            if engine.boundary_s != boundary_s:  # it was cut, and ended earlier
                continue
            for job, end in engine.complete():
                live = self._live[job.id]
                if end == "started":
                    self._scheduler.started(live.tracked)
                elif end == "finished":
                    self._finish(live, now_s)
                else:
                    self._scheduler.handed_over(live.tracked)
                    self._handed_over.append((live, id_))
            self._begin(id_, now_s)

    def _complete_transfers(self, now_s: float) -> None:
        """Let go on what has received its KV."""
        while self._transfers and self._transfers[0][0] <= now_s:
            _, _, live, source = heapq.heappop(self._transfers)
            self.cluster.engines[source].free(live.job)
            live.job.hands_over = False
            live.job.computed = live.job.context - 1
            self.cluster.engines[live.tracked.instance].add(live.job, now_s)
            self._begin(source, now_s)
            self._begin(live.tracked.instance, now_s)

    def _arrive(self, number: int, now_s: float) -> None:
        trace = self._requests[number]
        tokens = trace.token_ids(number * ID_GAP)
        hashes = list(block_hashes(tokens, self.plan.block_size)) if trace.blocks else None
        prompt = tokens[: trace.input_tokens]
        request = InferenceRequest(
            model=MODEL,
            id=str(number),
            prompt_token_ids=cast(list[int], prompt),
            sampling=SamplingParams(max_tokens=trace.max_tokens),
            priority=trace.priority,
            slo_deadline_ms=trace.slo_deadline_ms,
            ttft_slo_ms=trace.ttft_slo_ms,
            tbt_slo_ms=trace.tbt_slo_ms,
            cost_budget=trace.cost_budget,
            user_id=trace.user,
            billing_tier=trace.billing_tier,
            can_be_preempted=trace.can_be_preempted,
            arrival_time=EPOCH_S + now_s,
        )
        tracked = TrackedRequest(request, number + 1, "", "", trace.priority, EPOCH_S + now_s)
        output_tokens = min(trace.output_tokens, trace.max_tokens or trace.output_tokens)
        job = Job(request.id, trace.input_tokens, output_tokens, trace.priority, hashes)
        live = self._live[request.id] = _Live(trace, tracked, job, now_s)
        engine = next(iter(self.cluster.engines.values()))  # all are of one size
        if not engine.fits(job):
            self._refuse(live, "it does not fit the KV cache")
            return
        self._scheduler.enqueue(tracked, EPOCH_S + now_s)

    def _dispatch(self, now_s: float) -> None:
        touched: dict[str, None] = {}
        while self._handed_over:
            live, source = self._handed_over[0]
            if self._scheduler.go_on(live.tracked) is None:
                break
            self._handed_over.popleft()
            arrives_s = now_s + live.job.computed * self.plan.transfer_s_per_token
            heapq.heappush(self._transfers, (arrives_s, live.tracked.sequence, live, source))
        for placed in self._scheduler.assign(EPOCH_S + now_s):
            live = self._live[placed.tracked.id]
            if isinstance(placed, Refusal):
                self._refuse(live, placed.error.message)
                continue
            job = live.job
            live.wait_s = now_s - live.arrived_s
            live.group = placed.group
            live.tariff = placed.tariff
            job.output_tokens = min(job.output_tokens, placed.request.sampling.max_tokens or job.output_tokens)
            job.hands_over = placed.phase is Phase.PREFILL
            if placed.paced and live.trace.tbt_slo_ms is not None:
                job.tbt_slo_s = live.trace.tbt_slo_ms / 1000
            self.cluster.engines[placed.instance.id].add(job, now_s)
            touched[placed.instance.id] = None
        for id_ in touched:
            self._begin(id_, now_s)

    def _begin(self, id_: str, now_s: float) -> None:
        engine = self.cluster.engines[id_]
        engine.begin(now_s)
        if engine.boundary_s < inf:
            heapq.heappush(self._boundaries, (engine.boundary_s, id_))

    def _finish(self, live: _Live, now_s: float) -> None:
        job = live.job
        del self._live[job.id]
        user = live.trace.user
        self._served[user] = self._served.get(user, 0.0) + service_tokens(job.input_tokens, job.generated)
        self._scheduler.ended(live.tracked, job.generated, EPOCH_S + now_s)
        times_ms = np.frombuffer(job.token_times_s) * 1000
        arrival_ms = live.arrived_s * 1000
        gaps_ms = np.diff(times_ms)
        self._end(
            Outcome(
                request=live.trace,
                status="finished",
                wait_ms=live.wait_s * 1000,
                ttft_ms=float(times_ms[0]) - arrival_ms,
                latency_ms=now_s * 1000 - arrival_ms,
                tpot_ms=float(gaps_ms.mean()) if len(gaps_ms) else 0.0,
                gap_p99_ms=p99(gaps_ms),
                output_tokens=job.generated,
                cached_tokens=job.cached_tokens or 0,
                preemptions=job.preemptions,
                group=live.group,
                charged=live.tariff.cost(job.input_tokens, job.generated) if live.tariff else 0.0,
                instance=live.tracked.instance,
            )
        )

    def _refuse(self, live: _Live, reason: str) -> None:
        del self._live[live.tracked.id]
        self._end(Outcome(request=live.trace, status="rejected", reason=reason))

    def _end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._may_miss -= not outcome.met
        if self._progress is not None and not len(self.outcomes) % 500:
            self._progress(len(self.outcomes))


def p99(gaps_ms: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """The smallest gap that 99% of them do not exceed; 0 if there are none."""
    if not len(gaps_ms):
        return 0.0
    place = on_time(len(gaps_ms)) - 1
    return float(np.partition(gaps_ms, place)[place])
