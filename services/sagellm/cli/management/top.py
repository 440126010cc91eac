"""`sagellm top`: the whole pipeline on one screen, refreshed each second."""

from typing import TYPE_CHECKING, Annotated

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from .client import ManagementClient


def top(
    interval_s: Annotated[float, typer.Option("--interval", help="Seconds between refreshes.", min=0.2)] = 1.0,
    url: options.Url = options.DEFAULT_URL,
) -> None:
    """Watch models, instances, requests and policy live; q or Ctrl-C leaves. Redirected, it prints one frame."""
    from .client import ManagementClient
    from .frame import Rates, draw, look
    from .output import console

    out = console()
    with ManagementClient(url) as client:
        if out.is_terminal:
            _watch(client, interval_s)
        else:
            out.print(draw(look(client), Rates(), height=None))


def _watch(client: "ManagementClient", interval_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from sagellm_schemas import SageError

    from .frame import Rates, draw, look
    from .keys import keys
    from .output import console

    rates, out = Rates(), console()
    with keys() as pressed, Live(console=out, screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    seen = look(client)
                    rates.saw(seen)
                    live.update(draw(seen, rates, height=out.height), refresh=True)
                except SageError as error:
                    live.update(Group(Text(error.message, style="bold red"), Text("trying again")), refresh=True)
                if pressed(interval_s) == "q":
                    return
        except KeyboardInterrupt:
            return
