"""Every request from its arrival to its end: counted once, in a few microseconds, on the event loop."""

import time
from collections.abc import Mapping

from sagellm.histogram import Histogram
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import Ended, Outcome, RequestPriority

from .fairness import FairnessGap
from .slo import met, states_slo
from .window import Window


class Totals:
    """Counts since the beginning."""

    def __init__(self) -> None:
        self.arrived = 0
        self.completed = 0
        self.good = 0
        self.failed = 0
        self.cancelled = 0
        self.output_tokens = 0
        self.cost = 0.0
        self.slo_requests = dict.fromkeys(RequestPriority, 0)
        self.slo_violations = dict.fromkeys(RequestPriority, 0)


class RequestMetrics:
    """What becomes of requests. Nothing here is kept by request but what its record holds."""

    def __init__(
        self, ttft: Histogram, tpot: Histogram, latency: Histogram, tier_weights: Mapping[str, float]
    ) -> None:
        self.totals = Totals()
        self.window = Window(time.monotonic())
        self.fairness = FairnessGap()
        self._tier_weights = tier_weights
        self._ttft, self._tpot, self._latency = (
            [histogram.series(priority.name.lower()) for priority in RequestPriority]
            for histogram in (ttft, tpot, latency)
        )

    def arrived(self, count: int = 1) -> None:
        """This leader begins to answer for a request, or for so many."""
        self.totals.arrived += count

    def dispatched(self, wait_s: float) -> None:
        """A request was sent to an instance for the first time, `wait_s` after its arrival."""
        self.window.at(time.monotonic()).queue_wait.add(wait_s * 1000)

    def attempt_ended(self, tracked: TrackedRequest, ended: Ended) -> None:
        """A work item has ended, and the request perhaps with it."""
        now_s, request, usage = time.time(), tracked.request, ended.usage
        if ended.first_token_ms is not None:
            first_s = now_s - (ended.duration_ms - ended.first_token_ms) / 1000
            if not tracked.first_token_s:
                tracked.first_token_s = first_s
            elif request.tbt_slo_ms is not None and (first_s - tracked.left_s) * 1000 > request.tbt_slo_ms:
                tracked.late_gaps += 1  # the pause between two attempts
        tracked.left_s = now_s
        tracked.late_gaps += ended.late_gaps
        weight = self._tier_weights.get(request.billing_tier, 1.0)
        self.fairness.served(request.user_id, usage.prompt_tokens, usage.completion_tokens, weight)

    def ended(self, tracked: TrackedRequest, outcome: Outcome, ended: Ended | None = None) -> None:
        """A request has ended, whichever way; `ended` tells how, if that was at an instance."""
        totals, slot = self.totals, self.window.at(time.monotonic())
        if ended is not None:
            totals.cost += ended.usage.cost
        if outcome is Outcome.CANCELLED:
            totals.cancelled += 1
            return
        good = False
        if outcome is Outcome.FINISHED:
            good = self._completed(tracked, ended)
        else:
            totals.failed += 1
        if states_slo(tracked.request):
            priority = RequestPriority(tracked.priority)
            totals.slo_requests[priority] += 1
            slot.slo_requests[priority] = slot.slo_requests.get(priority, 0) + 1
            if not good:
                totals.slo_violations[priority] += 1
                slot.slo_violations[priority] = slot.slo_violations.get(priority, 0) + 1

    def _completed(self, tracked: TrackedRequest, ended: Ended | None) -> bool:
        """Count a completed request; returns whether it met its SLOs."""
        slot, now_s = self.window.at(time.monotonic()), time.time()
        tokens = ended.usage.completion_tokens if ended is not None else 0
        latency_ms = max(0.0, now_s - tracked.arrival_s) * 1000
        ttft_ms = None
        if tracked.first_token_s:
            ttft_ms = min(latency_ms, max(0.0, tracked.first_token_s - tracked.arrival_s) * 1000)
            slot.ttft.add(ttft_ms)
            self._ttft[tracked.priority].observe(ttft_ms / 1000)
            if tokens > 1:
                tpot_ms = max(0.0, now_s - tracked.first_token_s) * 1000 / (tokens - 1)
                slot.tpot.add(tpot_ms)
                self._tpot[tracked.priority].observe(tpot_ms / 1000)
        if ended is not None and ended.longest_gap_ms:
            slot.longest_gap.add(ended.longest_gap_ms)
        slot.latency.add(latency_ms)
        self._latency[tracked.priority].observe(latency_ms / 1000)
        good = met(
            tracked.request,
            latency_ms=latency_ms,
            ttft_ms=ttft_ms,
            output_tokens=tokens,
            late_gaps=tracked.late_gaps,
        )
        self.totals.completed += 1
        self.totals.output_tokens += tokens
        slot.completed += 1
        slot.output_tokens += tokens
        slot.good += good
        self.totals.good += good
        return good
