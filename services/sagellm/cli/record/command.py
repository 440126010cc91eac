"""`sagellm record`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sagellm.settings import Settings

    from .recorder import Recorder
    from .recording import Progress, Summary
    from .trace_file import TraceFile

REFRESHES_PER_S = 4


def record(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, .jsonl or .jsonl.gz.", show_default="trace-DATE-TIME.jsonl.gz"),
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", help="Record for so long; until Ctrl-C if not given.", min=0.1)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Record only this model.")] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts/--no-prompts", help="Write the prompts too, as they were sent.")
    ] = False,
    users: Annotated[
        bool, typer.Option("--users/--hash-users", help="Write user and session names as they are.")
    ] = False,
    block_tokens: Annotated[int, typer.Option(help="Tokens of a block of a prompt.", min=1, max=65_536)] = 16,
    linger_s: Annotated[
        float, typer.Option("--linger-s", help="How long to wait for the last answers in the end.", min=0)
    ] = 30.0,
    nats_url: Annotated[
        str | None, typer.Option(help="NATS server; that of `sagellm up` on this machine if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Record a running pipeline's traffic as a trace for `sagellm simulate`.

    Ctrl-C stops adding requests and waits for the answers under way; a second one ends it at once. Users are
    hashed, prompts are left out but for what tells which begin alike.
    """
    import time

    from sagellm.cli.joining import joined_settings

    from .disguise import Disguise
    from .recorder import Recorder
    from .trace_file import TraceFile

    settings = joined_settings(nats_url=nats_url)
    path = out or Path(time.strftime("trace-%Y%m%d-%H%M%S.jsonl.gz"))
    with TraceFile(path) as file:
        disguise = Disguise(keep_users=users, block_tokens=block_tokens)
        recorder = Recorder(file.write, disguise, prompts=prompts)
        try:
            summary = _record(settings, recorder, file, model, duration_s, linger_s)
        except BaseException:
            if not file.lines:
                path.unlink(missing_ok=True)
            raise
    _show(summary, as_json)


def _record(
    settings: "Settings",
    recorder: "Recorder",
    file: "TraceFile",
    model: str | None,
    duration_s: float | None,
    linger_s: float,
) -> "Summary":
    import asyncio
    import signal

    from rich.console import Console
    from rich.live import Live

    from sagellm import logs
    from sagellm.broker import connect
    from sagellm.cli.serve import loop_factory

    from .recording import record as run

    logs.configure("warning", "record")
    console = Console(stderr=True, highlight=False)

    async def until_stopped(show: "Callable[[Progress], None]") -> "Summary":
        stop, hurry = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _press, stop, hurry)
        async with connect(settings, "record") as connection:
            return await run(
                connection,
                recorder,
                file,
                model=model,
                duration_s=duration_s,
                linger_s=linger_s,
                stop=stop,
                hurry=hurry,
                show=show,
                on_ready=lambda: console.print(f"recording to {file.path}; Ctrl-C ends it", markup=False),
            )

    with Live(console=console, refresh_per_second=REFRESHES_PER_S, transient=True) as live:
        show = (lambda progress: live.update(_line(progress))) if console.is_terminal else (lambda _: None)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(until_stopped(show))


def _press(stop: "asyncio.Event", hurry: "asyncio.Event") -> None:
    """A signal: the first ends the arrivals, the second the wait for the answers."""
    (hurry if stop.is_set() else stop).set()


def _line(progress: "Progress") -> str:
    state = "waiting for the last answers (Ctrl-C: do not)" if progress.ending else "recording"
    rate = progress.requests / max(1e-9, progress.elapsed_s)
    return (
        f"{state}  {progress.elapsed_s:,.0f} s  {progress.requests:,} requests ({rate:,.1f}/s), "
        f"{progress.open:,} open, {progress.output_tokens:,} output tokens"
    )


def _show(summary: "Summary", as_json: bool) -> None:
    import msgspec

    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(summary), indent=1).decode())
        return
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(summary.outcomes.items())) or "none"
    typer.echo(
        f"{summary.file}: {summary.requests:,} requests in {summary.duration_s:,.1f} s ({outcomes}), "
        f"{summary.input_tokens:,} tokens in, {summary.output_tokens:,} out"
    )
    if summary.missed or summary.interruptions:
        typer.echo(
            f"not whole: {summary.missed or 0:,} requests were missed, and the connection was lost "
            f"{summary.interruptions} times",
            err=True,
        )
    if summary.malformed:
        typer.echo(f"{summary.malformed:,} messages were no requests and are left out", err=True)
