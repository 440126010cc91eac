"""Latency and throughput of a layout under a load, by Little's law."""

from collections.abc import Callable

import msgspec

from .layout import Layout
from .step_time import StepTimes, decode_step, prefill_step
from .workload import Workload

BISECTIONS = 40


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a layout is predicted to do. `running` are requests at once in all replicas, at the asked rate.

    `capacity_per_s` is the highest rate that meets the latency goals, with `room` requests at once. `sufficient`
    says whether it carries what was asked for.
    """

    running: float
    ttft_ms: float
    tpot_ms: float
    capacity_per_s: float
    room: int
    sufficient: bool


class Group:
    """One group of requests that share an engine: a replica, or one of its `ep` groups.

    With `b` requests at once in steady state, each needs one prefill and one decode step per output token, and
    every step serves all `b`: a request takes T(b) = O·d(b) + b·p, and by Little's law b / T(b) requests end per
    second. With PP, `b` is divided into as many micro-batches as there are stages, and prefills of different
    requests overlap.
    """

    def __init__(self, times: StepTimes, layout: Layout, workload: Workload) -> None:
        self._times = times
        self._stages = layout.pp
        self._workload = workload
        self._prefill_s = times.pass_s(prefill_step(workload.input_tokens))

    def decode_s(self, running: float) -> float:
        """d(b): one output token for each of `running`, without prefills between."""
        step = decode_step(max(1.0, running / self._stages), self._workload.mean_context_tokens)
        return self._times.pass_s(step)

    def request_s(self, running: float) -> float:
        """T(b)."""
        return self._workload.output_tokens * self.decode_s(running) + running * self._prefill_share_s(running)

    def rate_per_s(self, running: float) -> float:
        """Requests that end per second with `running` at once."""
        return running / self.request_s(running)

    def ttft_s(self, running: float) -> float:
        """The prefill, after the step that was under way."""
        return self._prefill_s + (self.decode_s(running) / self._stages if running > 1 else 0.0)

    def tpot_s(self, running: float) -> float:
        """A decode step, and the prefills of others that come between."""
        others = max(0.0, running - 1) * self._prefill_share_s(running)
        return self.decode_s(running) + others / self._workload.output_tokens

    def meets_goals(self, running: float) -> bool:
        """Whether both latencies are within what the workload asks."""
        w = self._workload
        return (w.ttft_slo_ms is None or self.ttft_s(running) * 1000 <= w.ttft_slo_ms) and (
            w.tpot_slo_ms is None or self.tpot_s(running) * 1000 <= w.tpot_slo_ms
        )

    def most_running(self, room: int) -> float:
        """The most requests at once, at most `room`, with which the goals are met; 0 if not even one."""
        if room < 1 or not self.meets_goals(1):
            return 0.0
        return _highest(1.0, float(room), self.meets_goals)

    def running_at(self, rate_per_s: float, most: float) -> float:
        """How many run at once when `rate_per_s` come, at least 1 and at most `most`."""
        return _highest(1.0, max(1.0, most), lambda running: self.rate_per_s(running) <= rate_per_s)

    def _prefill_share_s(self, running: float) -> float:
        return self._prefill_s / min(max(1.0, running), self._stages)


def forecast(times: StepTimes, layout: Layout, workload: Workload, kv_tokens: int) -> Forecast:
    """What `layout` does under `workload`, with `kv_tokens` of KV cache in each group."""
    group = Group(times, layout, workload)
    groups = layout.dp * layout.ep
    room = min(workload.max_seqs, kv_tokens // workload.request_tokens)
    most = group.most_running(room)
    capacity = groups * group.rate_per_s(most) if most else 0.0
    running = max(1.0, workload.concurrency / groups)
    if workload.rate_per_s:
        running = max(running, group.running_at(workload.rate_per_s / groups, max(1.0, float(room))))
    return Forecast(
        running=running * groups,
        ttft_ms=group.ttft_s(running) * 1000,
        tpot_ms=group.tpot_s(running) * 1000,
        capacity_per_s=capacity,
        room=room * groups,
        sufficient=most >= 1 and capacity >= workload.rate_per_s and most >= workload.concurrency / groups,
    )


def _highest(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """The highest number up to `high` for which `holds`, which is true below it; `low` if it never is."""
    if holds(high):
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
