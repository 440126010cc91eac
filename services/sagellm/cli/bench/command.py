"""`sagellm bench`: `serve` and `engine` are here, `calibrate` and `quality` have folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagellm.cli import options

from .calibrate.command import calibrate
from .quality.command import quality

if TYPE_CHECKING:
    from .measure import Plan, Result
    from .targets import Target

Concurrency = Annotated[str, typer.Option(help="Numbers of concurrent streams, separated by commas.")]
Requests = Annotated[
    int | None, typer.Option(help="Requests of each run.", min=1, show_default="twice the concurrency")
]
InputTokens = Annotated[int, typer.Option(help="Tokens of each random prompt.", min=1)]
OutputTokens = Annotated[
    int, typer.Option(help="Tokens of each answer; the end-of-sequence token is ignored.", min=1)
]
Dataset = Annotated[
    str,
    typer.Option(help="`random` token ids, or a JSONL file of objects with a `prompt`, or `turns` as MT-bench's."),
]
Repeat = Annotated[int, typer.Option(help="Runs at each concurrency; medians are shown.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of the prompts.")]
VocabSize = Annotated[int, typer.Option(help="Random token ids are below this.")]
JsonFile = Annotated[str | None, typer.Option("--json", help="Write everything as JSON to a file; `-` is stdout.")]
PngFile = Annotated[Path | None, typer.Option("--png", help="Write a picture.")]


def bench() -> typer.Typer:
    """The benchmarks."""
    app = typer.Typer(help="Measure TTFT, TPOT, ITL and throughput.", no_args_is_help=True)
    app.command()(serve)
    app.command()(engine)
    app.command()(calibrate)
    app.command()(quality)
    return app


def serve(
    url: options.Url = options.DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model; each server's first if not given.")] = None,
    label: Annotated[str, typer.Option(help="Name of the server in the results.")] = "sagellm",
    compare: Annotated[
        list[str] | None,
        typer.Option(help="LABEL=URL of another server, measured in turn with the first; may be repeated."),
    ] = None,
    concurrency: Concurrency = "1,8,32",
    requests: Requests = None,
    input_tokens: InputTokens = 128,
    output_tokens: OutputTokens = 128,
    dataset: Dataset = "random",
    repeat: Repeat = 5,
    seed: Seed = 0,
    vocab_size: VocabSize = 32_000,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="A request may take so long.", min=0.1)] = 600,
    json_file: JsonFile = None,
    png: PngFile = None,
) -> None:
    """Load any OpenAI-compatible server with streams."""
    import asyncio

    from .targets import find_server, parse_target

    plan = _plan(concurrency, requests, input_tokens, output_tokens, dataset, repeat, seed, vocab_size)
    named = [(label, url), *(parse_target(text) for text in compare or [])]

    async def run() -> "tuple[list[Target], list[Result]]":
        targets: list[Target] = [await find_server(name, where, model, timeout_s) for name, where in named]
        return targets, await _measure("serve", targets, plan, json_file)

    targets, results = asyncio.run(run())
    _report("serve", targets, plan, results, json_file, png)


def engine(
    model: options.Model = None,
    engine: options.Engine = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    threads: options.Threads = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_batched_tokens: options.MaxBatchedTokens = None,
    kv_cache_bytes: options.KvCacheBytes = None,
    concurrency: Concurrency = "1,8,32",
    requests: Requests = None,
    input_tokens: InputTokens = 128,
    output_tokens: OutputTokens = 128,
    dataset: Dataset = "random",
    repeat: Repeat = 5,
    seed: Seed = 0,
    vocab_size: VocabSize = 32_000,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="transformers, vllm or llamacpp, measured in turn with the engine; with =PYTHON, in the "
            "environment of that interpreter. May be repeated."
        ),
    ] = None,
    json_file: JsonFile = None,
    png: PngFile = None,
) -> None:
    """Load the engine in this process: the same measures without services.

    Peers run the same prompts in processes of their own. vLLM and transformers get a GGUF model as a folder of
    safetensors in bfloat16, or in --dtype; llama.cpp runs GGUF files only.
    """
    import asyncio
    import os

    from sagellm.cli.openmp import spin_briefly
    from sagellm.settings import Settings

    # How our threads wait is no setting for a peer.
    environment = dict(os.environ)
    spin_briefly()
    settings = Settings.load(
        model=model,
        engine=engine,
        dtype=dtype,
        quantization=quantization,
        device=device,
        threads=threads,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max_batched_tokens,
        kv_cache_bytes=kv_cache_bytes,
    )
    plan = _plan(concurrency, requests, input_tokens, output_tokens, dataset, repeat, seed, vocab_size)

    async def run() -> "tuple[list[Target], list[Result]]":
        from .comparison import parse_peers, peer_targets
        from .engine_target import engine_target

        peers = parse_peers(compare or [])
        # Peers first: an engine takes what memory is left.
        async with (
            peer_targets(peers, settings, plan, environment) as theirs,
            engine_target(settings) as ours,
        ):
            targets: list[Target] = [ours, *theirs]
            return targets, await _measure("engine", targets, plan, json_file)

    targets, results = asyncio.run(run())
    _report("engine", targets, plan, results, json_file, png)


def _plan(
    concurrency: str,
    requests: int | None,
    input_tokens: int,
    output_tokens: int,
    dataset: str,
    repeat: int,
    seed: int,
    vocab_size: int,
) -> "Plan":
    from sagellm_schemas import InvalidRequest

    from .measure import Plan

    try:
        streams = [int(text) for text in concurrency.split(",")]
    except ValueError:
        streams = []
    if not streams or min(streams) < 1:
        raise InvalidRequest(f"--concurrency takes numbers like 1,8,32, not {concurrency!r}")
    return Plan(
        concurrency=streams,
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        dataset=dataset,
        repeat=repeat,
        seed=seed,
        vocab_size=vocab_size,
    )


async def _measure(kind: str, targets: "list[Target]", plan: "Plan", json_file: str | None) -> "list[Result]":
    from rich.console import Console

    from .measure import measure
    from .report import document, write_json

    console = Console(stderr=True, highlight=False)

    def keep(results: "list[Result]") -> None:
        """A file holds what there is after each turn: a benchmark may be cut off."""
        if json_file not in (None, "-"):
            write_json(document(kind, targets, plan, results), json_file)

    return await measure(targets, plan, lambda text: console.print(text, style="dim", markup=False), keep)


def _report(
    kind: str,
    targets: "list[Target]",
    plan: "Plan",
    results: "list[Result]",
    json_file: str | None,
    png: Path | None,
) -> None:
    from .report import document, show, table_console, write_json

    show(results, table_console(stderr=json_file == "-"))
    if json_file is not None:
        write_json(document(kind, targets, plan, results), json_file)
    if png is not None:
        from .plot import write_png

        shape = plan.dataset if plan.dataset != "random" else f"{plan.input_tokens} tokens in"
        write_png(results, f"{shape}, {plan.output_tokens} out; medians of {plan.repeat} runs", png)
