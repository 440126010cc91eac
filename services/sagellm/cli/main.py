"""The `sagellm` command. Each command is one file, and imports what it needs only when it runs."""

import sys

import typer

from .asyncapi import asyncapi
from .bench.command import bench
from .chat import chat
from .demo import demo
from .management.instances import instances
from .management.policy import policy
from .management.queue import queue
from .management.requests import requests
from .management.top import top
from .models import models
from .plan import plan
from .record.command import record
from .services import ingress, scheduler, worker
from .simulate import simulate
from .up.command import up
from .version import version


def build() -> typer.Typer:
    """The command tree."""
    app = typer.Typer(
        name="sagellm",
        help="A durable, policy-scheduled LLM serving pipeline on NATS JetStream.\n\n"
        "Every setting is also a variable SAGELLM_…; flags win over variables.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    services = (ingress, scheduler, worker)
    for command in (up, demo, chat, queue, requests, top, *services, plan, record, simulate, asyncapi, version):
        app.command()(command)
    app.add_typer(instances(), name="instances")
    app.add_typer(policy(), name="policy")
    app.add_typer(models(), name="models")
    app.add_typer(bench(), name="bench")
    return app


def main() -> None:
    """Run the command line. An error that a user can mend is one sentence on stderr, and exit code 1."""
    try:
        build()()
    except Exception as error:
        from sagellm_schemas import SageError  # here, so that `--help` need not wait for it

        if not isinstance(error, SageError):
            raise
        print(f"sagellm: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
