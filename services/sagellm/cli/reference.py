"""The reference pages of the documentation, made from the commands and settings themselves.

`python -m sagellm.cli.reference docs` writes them anew; a test holds them against the code.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from sagellm.settings import Settings

from .main import build


def pages() -> dict[str, str]:
    """File name to Markdown."""
    return {"cli.md": cli_page(), "settings.md": settings_page()}


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = ["# The `sagellm` command", "Every setting is also a variable `SAGELLM_…` ([settings](settings.md))."]
    for path, command in _commands("sagellm", typer.main.get_command(build())):
        parts += [f"## `{path}`", str(command.help or "").strip()]
        rows = [_row(parameter) for parameter in command.params if "--help" not in parameter.opts]
        if rows:
            parts.append("\n".join(["| | | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Every setting with its variable and default."""
    rows = [
        f"| `SAGELLM_{name.upper()}` | {field.description} | {_default(name, field)} |"
        for name, field in Settings.model_fields.items()
    ]
    head = ["# Settings", "Variables of every service. The command line's flags win over them."]
    return "\n\n".join([*head, "\n".join(["| variable | what | default |", "|---|---|---|", *rows])]) + "\n"


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{path} {name}", command
            yield from _commands(f"{path} {name}", command)
        else:
            yield f"{path} {name}", command


def _row(parameter: Any) -> str:
    is_option = parameter.opts[0].startswith("-")
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    shown = "" if default in (None, False, ()) else f"`{str(default).lower() if default is True else default}`"
    return f"| {', '.join(f'`{name}`' for name in names)} | {parameter.help} | {shown} |"


def _default(name: str, field: Any) -> str:
    if name == "state_dir":
        return "`~/.local/state/sagellm`"
    if field.default_factory is not None:
        made = field.default_factory()
        return f"`{json.dumps(made)}`" if made else ""
    return "" if field.default in (None, "") else f"`{field.default}`"


if __name__ == "__main__":
    for file_name, text in pages().items():
        Path(sys.argv[1], file_name).write_text(text, encoding="utf-8")
