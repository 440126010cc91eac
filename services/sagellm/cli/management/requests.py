"""`sagellm requests`: what has not ended; one of them in full; changing and cancelling."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from sagellm_schemas import RequestView

    from .client import ManagementClient

NONE = "none"


def requests(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Show these in full, or change or cancel them.", metavar="[ID]...")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End them, waiting or running.")] = False,
    to_priority: Annotated[
        str | None, typer.Option("--to-priority", help="Give them this priority.", metavar="NAME")
    ] = None,
    ttft_slo_ms: Annotated[
        str | None, typer.Option(help="Let the first token be due so long after arrival; 'none' takes it away.")
    ] = None,
    slo_deadline_ms: Annotated[
        str | None, typer.Option(help="Let the whole answer be due so long after arrival; 'none' takes it away.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="Only those that are queued, running or pending.")] = None,
    instance: Annotated[str | None, typer.Option(help="Only those that run on this instance.")] = None,
    model: options.OfModel = None,
    user: options.OfUser = None,
    priority: options.OfPriority = None,
    limit: Annotated[int, typer.Option(help="Show so many at most.", min=1, max=1000)] = 20,
    offset: Annotated[int, typer.Option(help="Leave out so many first.", min=0)] = 0,
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """List the requests that have not ended, or show, change or cancel some of them."""
    from sagellm_schemas import InvalidRequest, RequestsPage

    from .client import ManagementClient
    from .output import console, print_json

    changes = _changes(to_priority, ttft_slo_ms, slo_deadline_ms)
    if not ids and (cancel or changes):
        raise InvalidRequest("say which requests: give their ids")
    if cancel and changes:
        raise InvalidRequest("--cancel ends requests: there is nothing left to change")
    with ManagementClient(url) as client:
        if not ids:
            page = client.get(
                "/requests",
                RequestsPage,
                status=status,
                instance=instance,
                model=model,
                user_id=user,
                priority=priority,
                limit=limit,
                offset=offset,
            )
            if as_json:
                print_json(page)
            else:
                _list(page, console())
        elif cancel:
            _cancel(client, ids, as_json=as_json)
        elif changes:
            _change(client, ids, changes, as_json=as_json)
        else:
            _show(client, ids, as_json=as_json)


def _changes(priority: str | None, ttft_slo_ms: str | None, slo_deadline_ms: str | None) -> dict[str, Any]:
    changes: dict[str, Any] = {} if priority is None else {"priority": priority}
    for name, given in (("ttft_slo_ms", ttft_slo_ms), ("slo_deadline_ms", slo_deadline_ms)):
        if given is not None:
            changes[name] = None if given.lower() == NONE else _number(name, given)
    return changes


def _number(name: str, given: str) -> float:
    from sagellm_schemas import InvalidRequest

    try:
        return float(given)
    except ValueError:
        raise InvalidRequest(f"{name} must be a number of milliseconds, or 'none'; got {given!r}") from None


def _cancel(client: "ManagementClient", ids: list[str], *, as_json: bool) -> None:
    from sagellm_schemas import CancelAnswer, NotFound

    from .output import print_json

    answer = client.send("POST", "/cancel", CancelAnswer, {"ids": ids})
    if as_json:
        print_json(answer)
    else:
        for ended in answer.cancelled:
            where = f" on {ended.instance}" if ended.instance else ""
            typer.echo(f"{ended.id}: cancelled; it was {ended.was}{where}")
    if answer.unknown:
        raise NotFound(f"there is no request {', '.join(answer.unknown)}: ended already, or never came")


def _change(client: "ManagementClient", ids: list[str], changes: dict[str, Any], *, as_json: bool) -> None:
    from sagellm_schemas import RequestChanged

    from .client import one
    from .output import console, print_json

    changed = [client.send("PATCH", one("requests", i), RequestChanged, changes) for i in ids]
    if as_json:
        print_json(changed[0] if len(ids) == 1 else changed)
        return
    for found in changed:
        typer.echo(f"{found.request.id}: {found.effect}")
        print_request(found.request, console())


def _show(client: "ManagementClient", ids: list[str], *, as_json: bool) -> None:
    from sagellm_schemas import RequestView

    from .client import one
    from .output import console, print_json

    found = [client.get(one("requests", i), RequestView) for i in ids]
    if as_json:
        print_json(found[0] if len(ids) == 1 else found)
        return
    for view in found:
        print_request(view, console())


def _list(page: Any, out: "Console") -> None:
    from sagellm_schemas import RequestPriority, RequestStatus

    from .output import duration, milliseconds, row, table

    if not page.requests:
        out.print("there are no requests of this kind" if page.total else "there are no requests")
        return
    made = table(
        *(
            "request",
            "status",
            "model",
            "priority",
            "user",
            "TTFT",
            "deadline",
            "waited",
            "runs",
            "instance",
            "attempt",
        ),
        right=("TTFT", "deadline", "waited", "runs", "attempt"),
    )
    for request in page.requests:
        running = request.status is RequestStatus.RUNNING
        row(
            made,
            request.id,
            request.status,
            f"{request.model}, {request.adapter}" if request.adapter else request.model,
            RequestPriority(request.priority).name + ("*" if request.changed else ""),
            request.user_id or "-",
            milliseconds(request.ttft_slo_ms),
            milliseconds(request.slo_deadline_ms),
            duration(request.waited_s),
            duration(page.taken_at - request.dispatched_at) if request.dispatched_at else "-",
            request.instance if running else "-",
            str(request.attempt or "-"),
        )
    out.print(made)
    if page.total > len(page.requests):
        out.print(f"… {len(page.requests)} of {page.total}; more with --limit and --offset", style="dim")


def print_request(request: "RequestView", out: "Console") -> None:
    """One request, a line for each thing that is known."""
    import time

    from rich.table import Table

    from sagellm_schemas import RequestPriority, RequestStatus

    from .output import duration, milliseconds, row, until

    rows = [
        ("request", request.id),
        ("model", request.model),
        ("status", str(request.status)),
        ("priority", RequestPriority(request.priority).name + (" (changed)" if request.changed else "")),
        ("user", request.user_id),
        ("prompt", f"{request.prompt_tokens} tokens"),
        ("first token due", request.ttft_slo_ms and f"{milliseconds(request.ttft_slo_ms)} after arrival"),
        ("answer due", request.slo_deadline_ms and f"{milliseconds(request.slo_deadline_ms)} after arrival"),
        ("budget", request.cost_budget),
        ("waits" if request.status is not RequestStatus.RUNNING else "waited", duration(request.waited_s)),
        ("position", request.position),
        ("starts in", request.predicted_start_at and until(request.predicted_start_at)),
        ("first token in", request.predicted_first_token_at and until(request.predicted_first_token_at)),
        ("done in", request.predicted_finish_at and until(request.predicted_finish_at)),
        ("why", request.reason),
        ("runs on" if request.status is RequestStatus.RUNNING else "ran on", request.instance),
        ("runs for", request.dispatched_at and duration(time.time() - request.dispatched_at)),
        ("attempt", request.attempt or ""),
        ("failures", request.failures and f"{request.failures}, the last: {request.last_error}"),
        ("tokens so far", request.output_tokens),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value not in (None, "", 0):
            row(grid, name, str(value))
    out.print(grid)
