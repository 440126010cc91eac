"""`sagellm instances`: the workers, and what an operator may do with them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from sagellm_schemas import InstancesPage, InstanceView

Id = Annotated[str, typer.Argument(help="Id of the instance, from `sagellm instances`.", metavar="ID")]
Reason = Annotated[str, typer.Option(help="Why; others see it.")]


def instances() -> typer.Typer:
    """The commands about instances."""
    app = typer.Typer(
        help="Show the instances and registered servers; with a subcommand, do something with one of them."
    )
    app.callback(invoke_without_command=True)(show)
    app.command("close")(close)
    app.command("open")(open_again)
    app.command()(drain)
    app.command()(register)
    app.command()(unregister)
    return app


def show(
    context: typer.Context,
    model: options.OfModel = None,
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """What `sagellm instances` does without a subcommand."""
    from sagellm_schemas import InstancesPage

    from .client import ManagementClient
    from .output import console, print_json

    if options.leaves_it_to_a_subcommand(context):
        return
    with ManagementClient(url) as client:
        page = client.get("/instances", InstancesPage, model=model)
    if as_json:
        print_json(page)
        return
    out = console()
    if not page.instances:
        out.print("there are no instances; start one with `sagellm worker`")
    else:
        out.print(instances_table(page))
    served = {instance.server for instance in page.instances}
    for server in page.servers:
        if server.id not in served:
            out.print(
                f"server {server.id} ({server.url}) is registered, and not served yet: it does not answer, or"
            )
            out.print("no worker process is there to serve it; the workers' logs tell", style="dim")


def instances_table(page: "InstancesPage") -> Any:
    """One line for each instance."""
    from .output import duration, milliseconds, row, share, table

    made = table(
        *(
            "instance",
            "model",
            "role",
            "engine",
            "state",
            "running",
            "load",
            "step",
            "KV",
            "price/h",
            "heard",
            "note",
        ),
        right=("running", "load", "step", "KV", "price/h", "heard"),
        wide="note",
    )
    for found in page.instances:
        row(
            made,
            found.id,
            found.model,
            str(found.role),
            found.engine,
            "closed" if found.closed and found.state == "ready" else str(found.state),
            f"{found.running}/{found.max_concurrent_requests}",
            share(found.load),
            milliseconds(found.step_ms) if found.step_ms else "-",
            share(found.kv_used) if found.kv_used else "-",
            f"{found.price_per_hour:g}" if found.price_per_hour else "-",
            duration(found.heard_s),
            found.closed or ", ".join(_notes(found)),
        )
    return made


def _notes(instance: "InstanceView") -> list[str]:
    notes = [f"registered as {instance.server}"] if instance.server else []
    return notes + ([f"adapters: {', '.join(instance.adapters)}"] if instance.adapters else [])


def close(
    instance: Id, reason: Reason = "", url: options.Url = options.DEFAULT_URL, as_json: options.AsJson = False
) -> None:
    """Send an instance no more requests. What runs there goes on, and `open` takes it back."""
    _order("PATCH", instance, {"closed": True, "reason": reason}, url, as_json=as_json)


def open_again(instance: Id, url: options.Url = options.DEFAULT_URL, as_json: options.AsJson = False) -> None:
    """Send a closed instance requests again."""
    _order("PATCH", instance, {"closed": False}, url, as_json=as_json)


def drain(instance: Id, url: options.Url = options.DEFAULT_URL, as_json: options.AsJson = False) -> None:
    """Let an instance finish what it runs and leave for good."""
    _order("DELETE", instance, None, url, as_json=as_json)


def register(
    server_url: Annotated[str, typer.Argument(help="Base URL of a running OpenAI or vLLM server.")],
    model: Annotated[str | None, typer.Option(help="Which of its models; the only one if not given.")] = None,
    server_id: Annotated[
        str | None, typer.Option("--id", help="Name for it; made from the URL if not given.")
    ] = None,
    max_concurrent_requests: Annotated[
        int | None, typer.Option(help="Requests that it runs at once; as the worker's settings say if not given.")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Its context, if it does not tell.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="What it costs.")] = None,
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """Have a running server serve requests. Any worker process takes it on, and another one if that dies."""
    from sagellm_schemas import Registration

    from .client import ManagementClient
    from .output import print_json

    body = {
        "url": server_url,
        "model": model,
        "id": server_id,
        "max_concurrent_requests": max_concurrent_requests,
        "max_model_len": max_model_len,
        "price_per_hour": price_per_hour,
    }
    given = {key: value for key, value in body.items() if value is not None}
    with ManagementClient(url) as client:
        made = client.send("POST", "/instances", Registration, given)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made.url} is registered as {made.id}; `sagellm instances` shows when it serves")


def unregister(
    server: Annotated[str, typer.Argument(help="Id of the registered server.", metavar="ID")],
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """Take a registered server out: it finishes what it runs for us. The server itself is left alone."""
    _order("DELETE", server, None, url, as_json=as_json)


def _order(method: str, instance: str, body: dict[str, Any] | None, url: str, *, as_json: bool) -> None:
    from sagellm_schemas import InstanceChanged

    from .client import ManagementClient, one
    from .output import print_json

    with ManagementClient(url) as client:
        changed = client.send(method, one("instances", instance), InstanceChanged, body)
    if as_json:
        print_json(changed)
    else:
        typer.echo(f"{instance}: {changed.effect}")
