"""One frame of `sagellm top`: what is asked of the ingress, and how it is drawn."""

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.text import Text

from sagellm_schemas import (
    InstancesPage,
    PolicyView,
    QueuePage,
    RequestPriority,
    RequestsPage,
    Snapshot,
)

from .client import ManagementClient
from .output import duration, milliseconds, printable, row, share, table
from .queue import models_table, obstacles_of, own_reason

LISTED = 200
FIXED_LINES = 14
"""Lines of a frame beside those of instances and requests."""

SMOOTH = 0.4


@dataclass(frozen=True)
class Seen:
    """How things stood at one moment."""

    metrics: Snapshot
    policy: PolicyView
    queue: QueuePage
    instances: InstancesPage
    running: RequestsPage


@dataclass
class Rates:
    """Output tokens a second by instance, from how their totals grow."""

    by_instance: dict[str, float] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)
    _at: float = 0.0

    def saw(self, seen: Seen) -> None:
        """Take in another moment."""
        totals = {i.id: i.output_tokens_total for i in seen.instances.instances}
        elapsed_s = seen.instances.taken_at - self._at
        rates: dict[str, float] = {}
        for instance, total in totals.items():
            before = self._before.get(instance)
            if before is not None and elapsed_s > 0:
                rate = max(0, total - before) / elapsed_s
                known = self.by_instance.get(instance, rate)
                rates[instance] = known + SMOOTH * (rate - known)
        self.by_instance = rates
        self._before, self._at = totals, seen.instances.taken_at


def look(client: ManagementClient) -> Seen:
    """Ask for everything.

    Raises:
        SageError: it is refused, or nothing usable answers.
    """
    return Seen(
        metrics=client.get("/metrics", Snapshot),
        policy=client.get("/policy", PolicyView),
        queue=client.get("/queue", QueuePage, limit=LISTED),
        instances=client.get("/instances", InstancesPage),
        running=client.get("/requests", RequestsPage, status="running", limit=LISTED),
    )


def draw(seen: Seen, rates: Rates, *, height: int | None) -> RenderableType:
    """The frame, in at most `height` lines; all of it if None."""
    room = None if height is None else max(6, height - FIXED_LINES - len(seen.queue.models))
    some = None if room is None else max(2, room // 3)
    return Group(
        _head(seen, rates),
        _latencies(seen.metrics),
        Text(),
        models_table(seen.queue) if seen.queue.models else Text("no models yet", style="dim"),
        *(
            Text(printable(f"{found.model}: {found.obstacle}"), style="yellow")
            for found in seen.queue.models
            if found.obstacle
        ),
        Text(),
        _instances(seen, rates, some),
        Text(),
        _running(seen, some),
        Text(),
        _waiting(seen, some),
    )


def _head(seen: Seen, rates: Rates) -> Text:
    metrics, policy = seen.metrics, seen.policy
    now = f", now {policy.active}" if policy.active != policy.policy else ""
    made = sum(rates.by_instance.values()) if rates.by_instance else metrics.tokens_per_second
    switched = "  [switched by an operator]" if policy.switched_at is not None else ""
    return Text.assemble(
        ("sagellm  ", "bold"),
        f"{metrics.running_requests} running, {metrics.queue_length} waiting, {made:.0f} tokens/s, "
        f"{metrics.requests_per_second:.1f} requests/s, goodput {metrics.goodput_rps:.1f}/s\n",
        (f"policy {policy.policy}{now}", "bold"),
        f": {policy.reason}; routing {policy.routing}{switched}",
    )


def _latencies(metrics: Snapshot) -> Text:
    if not metrics.completed_requests and not metrics.total_requests:
        return Text("no requests yet", style="dim")
    parts = [
        f"{name} p50 {milliseconds(found.p50_ms)} p99 {milliseconds(found.p99_ms)}"
        for name, found in (
            ("TTFT", metrics.ttft),
            ("TPOT", metrics.tpot),
            ("latency", metrics.latency),
            ("wait", metrics.queue_wait),
        )
        if found.count
    ]
    parts.append(f"SLOs met {share(metrics.slo_compliance_rate)}")
    parts.append(
        f"ended {metrics.completed_requests} well, {metrics.failed_requests} failed, "
        f"{metrics.cancelled_requests} cancelled"
    )
    return Text(f"last {metrics.window_s:.0f} s: " + "; ".join(parts))


def _instances(seen: Seen, rates: Rates, most: int | None) -> RenderableType:
    found = seen.instances.instances
    if not found:
        return Text("no instances; start one with `sagellm worker`", style="yellow")
    made = table(
        *("instance", "state", "load", "running", "tokens/s", "step", "KV", "note"),
        right=("running", "tokens/s", "step", "KV"),
        wide="note",
        one_line=True,
    )
    for instance in found[:most]:
        state = "closed" if instance.closed and instance.state == "ready" else str(instance.state)
        rate = rates.by_instance.get(instance.id)
        row(
            made,
            instance.id,
            Text(state, style="green" if instance.takes_work else "yellow"),
            _bar(instance.load),
            f"{instance.running}/{instance.max_concurrent_requests}",
            "-" if rate is None else f"{rate:.0f}",
            milliseconds(instance.step_ms) if instance.step_ms else "-",
            share(instance.kv_used) if instance.kv_used else "-",
            instance.closed,
        )
    return _with_rest(made, len(found), most)


def _running(seen: Seen, most: int | None) -> RenderableType:
    page = seen.running
    if not page.requests:
        return Text("nothing runs", style="dim")
    made = table(
        *("runs", "priority", "user", "for", "waited", "instance", "attempt"), right=("for", "waited", "attempt")
    )
    for request in page.requests[:most]:
        row(
            made,
            request.id,
            RequestPriority(request.priority).name,
            request.user_id or "-",
            duration(page.taken_at - request.dispatched_at) if request.dispatched_at else "-",
            duration(request.waited_s),
            request.instance,
            str(request.attempt),
        )
    return _with_rest(made, page.total, most)


def _waiting(seen: Seen, most: int | None) -> RenderableType:
    page = seen.queue
    if not page.requests:
        return Text("nothing waits", style="dim")
    obstacles = obstacles_of(page)
    made = table(
        *("waits", "#", "priority", "user", "for", "starts in", "why"),
        right=("#", "for", "starts in"),
        wide="why",
        one_line=True,
    )
    for request in page.requests[:most]:
        starts = request.predicted_start_at
        row(
            made,
            request.id,
            str(request.position),
            RequestPriority(request.priority).name,
            request.user_id or "-",
            duration(request.waited_s),
            "-" if starts is None else duration(starts - page.taken_at),
            own_reason(request, obstacles),
        )
    return _with_rest(made, page.total or len(page.requests), most)


def _bar(load: float, width: int = 10) -> Text:
    filled = round(min(1.0, load) * width)
    style = "red" if load >= 0.95 else "yellow" if load >= 0.7 else "green"
    return Text.assemble(("█" * filled, style), ("░" * (width - filled), "dim"), f" {load:4.0%}")


def _with_rest(made: RenderableType, count: int, most: int | None) -> RenderableType:
    rest = count - (count if most is None else min(most, count))
    return Group(made, Text(f"… and {rest} more", style="dim")) if rest else made
