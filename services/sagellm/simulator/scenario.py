"""What is simulated: a trace, its changes, a cluster, a policy and a routing strategy; run by rate and seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sagellm.scheduler.pd import make_pd_policy
from sagellm.scheduler.policies import make_policy
from sagellm.scheduler.routing import make_router

from .cluster import ClusterPlan
from .outcome import Outcome
from .results import RunResult, summarize
from .simulation import Simulation
from .traces import NEVER_MISSED, Mix, TraceRequest, apply_mixes

Progress = Callable[[int, int], None]
"""Told how many requests have ended, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything but the rate and the seed. The SLOs hold for every request that has none of its own."""

    requests: Sequence[TraceRequest]
    plan: ClusterPlan
    policy: str = "fifo"
    routing: str = "load_balanced"
    pd_policy: str = "adaptive"
    mixes: Sequence[Mix] = ()
    users: int = 0
    ttft_slo_ms: float | None = None
    tbt_slo_ms: float | None = None

    @property
    def rate_rps(self) -> float:
        """Requests per second of the trace as it is."""
        span_s = self.requests[-1].arrival_s
        return len(self.requests) / span_s if span_s > 0 else 0.0

    def run(
        self, seed: int, rate_scale: float, progress: Progress | None = None, least_attainment: float = 0.0
    ) -> tuple[RunResult, list[Outcome]]:
        """One run; the same seed and rate give the same result. It stops when `least_attainment` is out of reach.

        Raises:
            SettingsError: there is no such policy or routing strategy, or the cluster cannot be.
            InvalidRequest: the mixes cannot be applied.
        """
        requests = self._prepare(seed)
        total = len(requests)
        simulation = Simulation(
            requests,
            self.plan,
            make_policy(self.policy),
            make_router(self.routing),
            make_pd_policy(self.pd_policy),
            rate_scale,
            progress and (lambda ended: progress(ended, total)),
            int((1 - least_attainment) * total + 1e-9),
        )
        simulation.run()
        return summarize(simulation, seed, rate_scale), simulation.outcomes

    def at_rate(
        self, seed: int, attainment: float, progress: Progress | None = None
    ) -> Callable[[float], RunResult]:
        """Runs that differ in their rate only, and stop as soon as `attainment` is out of reach."""
        return lambda rate_scale: self.run(seed, rate_scale, progress, attainment)[0]

    def _prepare(self, seed: int) -> list[TraceRequest]:
        return [
            replace(
                request,
                ttft_slo_ms=_slo_ms(request.ttft_slo_ms, self.ttft_slo_ms),
                tbt_slo_ms=_slo_ms(request.tbt_slo_ms, self.tbt_slo_ms),
                slo_deadline_ms=_slo_ms(request.slo_deadline_ms, None),
            )
            for request in apply_mixes(self.requests, self.mixes, self.users, seed)
        ]


def _slo_ms(own_ms: float | None, for_all_ms: float | None) -> float | None:
    wanted_ms = for_all_ms if own_ms is None else own_ms
    return None if wanted_ms == NEVER_MISSED else wanted_ms
