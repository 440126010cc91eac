"""The pages of the documentation are what the code says."""

from pathlib import Path

import pytest
import typer.main

from sagellm.cli.main import build
from sagellm.cli.reference import pages
from sagellm.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name], (
        "write it anew: python -m sagellm.cli.reference docs"
    )


def test_the_defaults_that_help_shows_are_those_of_the_settings() -> None:
    checked = 0
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        if name == "simulate":  # its instances are the cost model's, not those of the settings
            continue
        for parameter in getattr(command, "params", ()):
            shown = getattr(parameter, "show_default", None)
            field = Settings.model_fields.get(parameter.name or "")
            if isinstance(shown, str) and field is not None and parameter.name != "state_dir":
                default = field.default
                assert shown == (f"{default:g}" if isinstance(default, float) else str(default)), parameter.name
                checked += 1
    assert checked > 20
