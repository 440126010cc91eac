"""`sagellm queue`: what waits, in the order in which it will be served."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from sagellm.cli import options

BEHIND = re.compile(r"[^(]+ before it under [^(]+ \((.+)\)")

if TYPE_CHECKING:
    from rich.table import Table

    from sagellm_schemas import QueuePage, RequestView


def queue(
    limit: Annotated[int, typer.Option(help="Show so many requests at most.", min=1, max=1000)] = 20,
    offset: Annotated[int, typer.Option(help="Leave out so many first.", min=0)] = 0,
    model: options.OfModel = None,
    user: options.OfUser = None,
    priority: options.OfPriority = None,
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """Show the requests that wait: their order, when they will start, and why they do not run yet."""
    from sagellm_schemas import QueuePage

    from .client import ManagementClient
    from .output import console, print_json, printable

    with ManagementClient(url) as client:
        page = client.get(
            "/queue", QueuePage, limit=limit, offset=offset, model=model, user_id=user, priority=priority
        )
    if as_json:
        print_json(page)
        return
    out = console()
    if page.models:
        out.print(models_table(page))
    for found in page.models:
        if found.obstacle:
            out.print(printable(f"{found.model}: {found.obstacle}"), style="yellow")
    if not page.requests:
        out.print(
            "nothing waits" if not any(queue.waiting for queue in page.models) else "nothing of this kind waits"
        )
        return
    out.print()
    out.print(requests_table(page))
    if page.more:
        of = "" if page.total is None else f" of {page.total}"
        out.print(f"… the first {len(page.requests)}{of}; more with --limit and --offset", style="dim")


def models_table(page: "QueuePage") -> "Table":
    """One line for each model."""
    from .output import duration, row, table

    made = table(
        *("model", "waiting", "running", "places", "instances", "wait of a new one"),
        right=("waiting", "running", "places", "instances", "wait of a new one"),
    )
    for found in page.models:
        wait = "no end in sight" if found.expected_wait_s is None else duration(found.expected_wait_s)
        row(
            made,
            found.model,
            str(found.waiting),
            str(found.running),
            str(found.credits),
            str(found.instances),
            wait,
        )
    return made


def requests_table(page: "QueuePage") -> "Table":
    """One line for each request that waits, and why."""
    from sagellm_schemas import RequestPriority

    from .output import duration, milliseconds, row, table, until

    obstacles = obstacles_of(page)
    made = table(
        *("#", "request", "priority", "user", "TTFT", "deadline", "waits", "starts in", "done in", "why"),
        right=("#", "TTFT", "deadline", "waits", "starts in", "done in"),
        wide="why",
    )
    for request in page.requests:
        row(
            made,
            "" if request.position is None else str(request.position),
            request.id,
            RequestPriority(request.priority).name + ("*" if request.changed else ""),
            request.user_id or "-",
            milliseconds(request.ttft_slo_ms),
            milliseconds(request.slo_deadline_ms),
            duration(request.waited_s),
            until(request.predicted_start_at),
            until(request.predicted_finish_at),
            own_reason(request, obstacles),
        )
    return made


def obstacles_of(page: "QueuePage") -> dict[str, str]:
    """What is in the way of all requests of a model, by model."""
    return {found.model: found.obstacle for found in page.models}


def own_reason(request: "RequestView", obstacles: dict[str, str]) -> str:
    """The part of its reason that its place and the obstacle of its model, which stand beside it, do not tell."""
    obstacle = obstacles.get(request.model)
    own = request.reason.removesuffix(f", and {obstacle}.") if obstacle else request.reason
    found = BEHIND.fullmatch(own.rstrip("."))
    return found[1] if found else own
