"""`sagellm bench calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from .report import Calibration
    from .rig import Rig

DEFAULT_BATCHED_TOKENS = 2048
"""A step of an engine that does not tell its size: prompts up to here are taken for one step."""
FILE_WIDTH = 100
"""Columns of a table that goes to no terminal."""


def calibrate(
    out: Annotated[Path | None, typer.Option(help="Write the cost model, for --cost-model, to this file.")] = None,
    model: Annotated[str | None, typer.Option(help="Model: the first instance's if not given.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="Id or name of the instance.", show_default="the first of the model")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Load the engine in this process instead, and need no pipeline.")
    ] = False,
    engine: options.Engine = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    kv_cache_bytes: options.KvCacheBytes = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch.", min=1, show_default="what the instance runs at once")
    ] = None,
    max_batched_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a step, where the instance does not tell.",
            min=1,
            show_default=str(DEFAULT_BATCHED_TOKENS),
        ),
    ] = None,
    kv_bytes_per_token: Annotated[
        float, typer.Option(help="Bytes of KV of a token; only transfers between instances need it.", min=0)
    ] = 0,
    repeat: Annotated[int, typer.Option(help="Runs of each probe; medians count.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    nats_url: Annotated[
        str | None, typer.Option(help="NATS server; that of `sagellm up` on this machine if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Fit a cost model for `sagellm simulate` to an idle instance, by giving it controlled work.

    It measures what its steps take: prompts of several sizes alone, and decodes in batches of several sizes and
    with short and long contexts.
    """
    import asyncio

    from rich.console import Console

    from sagellm.cli.joining import joined_settings
    from sagellm.settings import Settings

    from .report import show, write

    async def run() -> "Calibration":
        if here:
            from .here import engine_rig

            async with engine_rig(settings) as rig:
                return await _calibrate(rig, max_batch, max_batched_tokens, kv_bytes_per_token, repeat, seed)
        from sagellm.broker import connect

        from .wire import disturbed, wire_rig

        async with (
            connect(settings, "calibrate") as connection,
            wire_rig(connection, model, instance) as wire,
        ):
            before = await wire.heartbeat()
            found = await _calibrate(wire, max_batch, max_batched_tokens, kv_bytes_per_token, repeat, seed)
            return found.with_warning(await disturbed(wire, before))

    settings: Settings
    if here:
        from sagellm.cli.openmp import spin_briefly

        spin_briefly()
        settings = Settings.load(
            model=model,
            engine=engine,
            dtype=dtype,
            device=device,
            threads=threads,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
            kv_cache_bytes=kv_cache_bytes,
        )
    else:
        _refuse(
            engine=engine,
            dtype=dtype,
            device=device,
            threads=threads,
            kv_cache_bytes=kv_cache_bytes,
            max_num_seqs=max_num_seqs,
        )
        settings = joined_settings(nats_url=nats_url)
    calibration = asyncio.run(run())
    if out is not None:
        write(calibration, out)
    if as_json:
        typer.echo(calibration.document())
    else:
        console = Console()
        if not console.is_terminal:
            console.width = FILE_WIDTH
        show(calibration, console, out)


async def _calibrate(
    rig: "Rig",
    max_batch: int | None,
    max_batched_tokens: int | None,
    kv_bytes_per_token: float,
    repeat: int,
    seed: int,
) -> "Calibration":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .fit import compare, fit
    from .probes import measure, plan
    from .report import Calibration, origin_of

    budget = rig.facts.max_batched_tokens or max_batched_tokens or DEFAULT_BATCHED_TOKENS
    largest = min(max_batch or rig.facts.max_num_seqs, rig.facts.max_num_seqs)
    budget = max(budget, rig.facts.max_num_seqs)
    probes = plan(rig.facts, budget, largest)
    console = Console(stderr=True)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(probes))
        found = await measure(rig, probes, budget, repeat, seed, lambda done: bar.update(task, completed=done))
    cost = fit(rig.facts, found, budget, kv_bytes_per_token, origin_of(rig.facts, repeat))
    return Calibration(facts=rig.facts, cost_model=cost, measurements=found, fitted=compare(cost, found))


def _refuse(**flags: object) -> None:
    """Flags that only an engine in this process can follow."""
    from sagellm_schemas import InvalidRequest

    for name, value in flags.items():
        if value is not None:
            raise InvalidRequest(f"--{name.replace('_', '-')} goes with --here; a running instance has its own")
