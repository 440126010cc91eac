"""`sagellm bench quality`."""

from pathlib import Path
from typing import Annotated

import typer

from sagellm.cli import options


def quality(
    model: options.Model = None,
    quantization: options.Quantization = None,
    against: Annotated[
        str | None,
        typer.Option(help="Model to compare with.", show_default="with --quantization, --model without it"),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="File with the text.", show_default="one of 4,500 tokens, prose and code")
    ] = None,
    window: Annotated[int, typer.Option(help="Tokens of a window; windows overlap by a half.", min=8)] = 512,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write everything as JSON to a file; `-` is stdout.")
    ] = None,
) -> None:
    """Measure a model's perplexity on a fixed text, and what quantization makes of it."""
    from rich.console import Console

    from sagellm.cli.bench.report import write_json
    from sagellm.settings import Settings

    from .bar import scoring_bar
    from .measure import compare, read_text, score_model
    from .report import document, show

    content = read_text(text)
    settings = Settings.load(model=model, quantization=quantization, dtype=dtype, device=device, threads=threads)
    plan = [settings]
    if against is not None or quantization is not None:
        changes = {"model": against or settings.model, "quantization": None}
        plan.append(settings.model_copy(update=changes))
    with scoring_bar(Console(stderr=True)) as bar:
        results = [score_model(each, content, window, bar) for each in plan]
    comparison = compare(*results) if len(results) == 2 else None
    show(results, comparison, Console(stderr=json_file == "-"))
    if json_file is not None:
        name = "sagellm" if text is None else text.name
        write_json(document(results, comparison, text=name, window_tokens=window), json_file)
