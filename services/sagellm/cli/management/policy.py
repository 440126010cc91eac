"""`sagellm policy`: by which policy and routing requests are served, and switching while running."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from sagellm_schemas import PolicyView


def policy() -> typer.Typer:
    """The commands about the policy."""
    app = typer.Typer(help="Show which policy and routing are in use, and why; with a subcommand, switch them.")
    app.callback(invoke_without_command=True)(show)
    app.command("use")(use)
    app.command("reset")(reset)
    return app


def show(context: typer.Context, url: options.Url = options.DEFAULT_URL, as_json: options.AsJson = False) -> None:
    """What `sagellm policy` does without a subcommand."""
    from sagellm_schemas import PolicyView

    from .client import ManagementClient

    if options.leaves_it_to_a_subcommand(context):
        return
    with ManagementClient(url) as client:
        view = client.get("/policy", PolicyView)
    _print(view, as_json=as_json)


def use(
    name: Annotated[str | None, typer.Argument(help="Policy to use from now on.", metavar="[POLICY]")] = None,
    routing: Annotated[str | None, typer.Option(help="Routing strategy to use from now on.")] = None,
    url: options.Url = options.DEFAULT_URL,
    as_json: options.AsJson = False,
) -> None:
    """Switch policy, routing or both, until they are switched again or reset. Nothing is restarted or lost."""
    from sagellm_schemas import InvalidRequest

    changes = {key: value for key, value in (("policy", name), ("routing", routing)) if value is not None}
    if not changes:
        raise InvalidRequest("give a policy, or --routing")
    _switch(url, changes, as_json=as_json)


def reset(url: options.Url = options.DEFAULT_URL, as_json: options.AsJson = False) -> None:
    """Go back to what the scheduler's settings say."""
    _switch(url, {"policy": None, "routing": None}, as_json=as_json)


def _switch(url: str, changes: dict[str, Any], *, as_json: bool) -> None:
    from sagellm_schemas import PolicyView

    from .client import ManagementClient

    with ManagementClient(url) as client:
        view = client.send("PATCH", "/policy", PolicyView, changes)
    _print(view, as_json=as_json)


def _print(view: "PolicyView", *, as_json: bool) -> None:
    from .output import print_json

    if as_json:
        print_json(view)
        return
    switched = view.switched_at is not None
    now = f", now {view.active}" if view.active != view.policy else ""
    typer.echo(f"policy:  {view.policy}{now} ({view.reason})")
    typer.echo(f"routing: {view.routing}")
    if switched:
        typer.echo(
            f"switched by an operator; the settings say {view.policy_setting} and {view.routing_setting} "
            "(`sagellm policy reset`)"
        )
    typer.echo(f"policies: {', '.join(view.policies)}")
    typer.echo(f"routings: {', '.join(view.routings)}")
